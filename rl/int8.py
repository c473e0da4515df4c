"""Frozen linear layers in 8 bits, for sampling on a CPU: a quarter of the bytes, and products of whole numbers.

Weights take one scale a row; activations one a token, since the first token's are hundreds of times the others'. Before
that, scales move from activations' columns, which have outliers, to the weights' (SmoothQuant, Xiao et al. 2023,
arXiv 2211.10438), as large as calibration finds them. What learns is added in full precision beside these layers, so
the policy's newest experts are always those that are sampled from. Sampled tokens then follow a distribution that is
close to the trainer's and not the same: training corrects for it (`grpo_trainer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

MIGRATED = 0.8  # SmoothQuant's alpha: how much of the columns' differences moves to the weights
MOST = 127  # of 8 bits with a sign
LEAST = 1e-5  # columns that calibration never saw move are taken to be this large


class Int8Linear(nn.Module):
    """The product of `linear` in 8 bits: float32 (…, in) -> (…, out), errors of about 1 %.

    columns: (in,) the largest size of each input column, of tokens scaled to 1.
    """

    def __init__(self, linear: nn.Linear, columns: torch.Tensor) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        most = weight.abs().amax(0).clamp(min=LEAST)
        moved = columns.clamp(min=LEAST) ** MIGRATED / most ** (1 - MIGRATED)
        self.shrink = moved.mean() / moved
        weight = weight / self.shrink
        self.scales = weight.abs().amax(1).clamp(min=LEAST) / MOST
        self.whole = (weight / self.scales[:, None]).round().to(torch.int8).T
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x * self.shrink).flatten(0, -2)
        sizes = rows.abs().amax(-1, keepdim=True).clamp_(min=LEAST) / MOST
        drawn = torch._int_mm((rows / sizes).round_().to(torch.int8), self.whole).float().mul_(sizes).mul_(self.scales)
        drawn = drawn if self.bias is None else drawn.add_(self.bias)
        return drawn.view(*x.shape[:-1], -1)


class Int8:
    """The linear layers of a model's language part and its head in 8 bits, which can take their place for a while.

    calibrate: runs the model over what it will read. Layers must be frozen: their 8 bits are made once, here. Needs a
    CPU; weights of a trained LoRA or expert stay in full precision beside them.
    """

    def __init__(self, model, calibrate: Callable[[], None]) -> None:
        spoken = set(model.base_model.language_model.modules()) | {model.get_output_embeddings()}
        self.model = model
        self.whole = {
            name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and part in spoken
        }
        columns: dict[str, torch.Tensor] = {}
        hooks = [part.register_forward_pre_hook(_noting(name, columns)) for name, part in self.whole.items()]
        try:
            with torch.no_grad():
                calibrate()
        finally:
            for hook in hooks:
                hook.remove()
        self.small = {
            name: Int8Linear(part, columns.get(name, torch.ones(part.in_features))) for name, part in self.whole.items()
        }

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Within it the model computes in 8 bits."""
        self._put(self.small)
        try:
            yield
        finally:
            self._put(self.whole)

    def _put(self, parts: dict[str, nn.Module]) -> None:
        for name, part in parts.items():
            self.model.set_submodule(name, part)


def _noting(name: str, columns: dict[str, torch.Tensor]) -> Callable:
    def note(part: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].detach().float().abs().flatten(0, -2)
        most = (x / x.amax(-1, keepdim=True).clamp(min=LEAST)).amax(0)
        columns[name] = torch.maximum(columns[name], most) if name in columns else most

    return note
