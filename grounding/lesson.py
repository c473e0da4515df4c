"""What one training step asks of the network and how its answer is marked: prompts, corrections, losses.

Masks are learnt with cross-entropy and Dice, object interiors with cross-entropy on a soft target, presence with
cross-entropy on words that are there and words that are not. A share of the prompts is asked a second time with a
click on what was wrong and the first mask as a start, some of them again and again (SAM's interactive training).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from slidekick.grounding.model import Features, SegmentorModel
from slidekick.grounding.prompts import correcting_click, padded
from slidekick.grounding.sizes import MASK_STRIDE
from slidekick.grounding.tower import to_tensor
from slidekick.grounding.windows import Prompt

DICE_SMOOTH = 16.0  # mask cells; keeps near-empty windows from dominating
ROUNDS = 4  # of corrections; SAM has eleven
GOES_ON = 0.6  # share of corrected prompts that are corrected once more
ABSENT = 0.3  # weight of cells of absent concepts: presence answers for them, and they must not thin out all masks
# of the parts of the loss; corrected: Dice of what is drawn again
WEIGHTS = {"mask": 1.0, "dice": 0.7, "interior": 1.0, "presence": 0.3, "corrected": 0.7}


@dataclass(frozen=True)
class Batch:
    """Windows (B) and their prompts (P) as tensors.

    pixels: float32 (B, 3, S, S). index: int64 (P,), window of each prompt. phrases: float32 (P, PHRASE_WIDTH). clicks:
    of each prompt, as in `windows.Prompt`, and so the targets: mask, judged and interior, float32 (P, S/2, S/2). told:
    bool (P,), objects are told apart. present: float32 (P,), 1 where it is there. asked: bool (P,), there are words,
    so presence is a fair question.
    """

    pixels: torch.Tensor
    index: torch.Tensor
    phrases: torch.Tensor
    clicks: list[list]
    mask: torch.Tensor
    judged: torch.Tensor
    interior: torch.Tensor
    told: torch.Tensor
    present: torch.Tensor
    asked: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        moved = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Batch(**{name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in moved.items()})


def collate(drawn: list[tuple[np.ndarray, list[Prompt]]], embeddings: dict[str | None, np.ndarray]) -> Batch:
    """Windows of one size, and the vectors of their phrases (None: no words)."""
    prompts = [prompt for _, own in drawn for prompt in own]
    blank = np.zeros_like(prompts[0].mask)
    return Batch(
        pixels=to_tensor(np.stack([pixels for pixels, _ in drawn])).contiguous(memory_format=torch.channels_last),
        index=torch.tensor([window for window, (_, own) in enumerate(drawn) for _ in own]),
        phrases=torch.from_numpy(np.stack([embeddings[prompt.phrase] for prompt in prompts])),
        clicks=[prompt.clicks for prompt in prompts],
        mask=torch.from_numpy(np.stack([prompt.mask for prompt in prompts])),
        judged=torch.from_numpy(np.stack([prompt.judged for prompt in prompts])),
        interior=torch.from_numpy(np.stack([blank if p.interior is None else p.interior for p in prompts])),
        told=torch.tensor([prompt.interior is not None for prompt in prompts]),
        present=torch.tensor([float(prompt.present) for prompt in prompts]),
        asked=torch.tensor([_fair(prompt) for prompt in prompts]),
    )


def _fair(prompt: Prompt) -> bool:
    """Words alone; and what is not seen may be where nobody looked."""
    return prompt.phrase is not None and not prompt.clicks and (prompt.present or bool(prompt.judged.all()))


class Lesson(nn.Module):
    """The network together with its losses, so that one call of one module is one step (as DDP wants it)."""

    def __init__(self, model: SegmentorModel, corrected: float) -> None:
        super().__init__()
        self.model = model
        self.corrected = corrected  # share of prompts that are asked again with a click

    def forward(self, batch: Batch, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and its parts."""
        device = next(self.model.parameters()).device
        batch = batch.to(device)
        features = self.model.encode(batch.pixels)
        masks, present = self.model.decode(
            _of(features, batch.index), batch.phrases, *point_tensors(batch.clicks, device)
        )
        parts = _marks(masks, present, batch)
        logits = dict(enumerate(masks[:, 0].detach()))
        clicks = dict(enumerate(batch.clicks))
        for number in range(ROUNDS):
            asked_again = self.corrected if number == 0 else GOES_ON
            clicks = self._corrections(logits, clicks, asked_again, batch, rng)
            if not clicks:
                break
            pick = torch.tensor(list(clicks), device=device)
            former = torch.stack([logits[prompt] for prompt in clicks])
            marks = point_tensors(list(clicks.values()), device)
            again, _ = self.model.decode(_of(features, batch.index[pick]), batch.phrases[pick], *marks, former=former)
            logits = dict(zip(clicks, again[:, 0].detach(), strict=True))
            share = len(pick) / len(batch.clicks)
            bce, dice = drawing_loss(again[:, 0], batch.mask[pick], batch.judged[pick])
            inner = interior_loss(again[:, 1], batch.interior[pick], batch.told[pick], batch.judged[pick])
            parts["mask"] = parts["mask"] + share * bce
            parts["interior"] = parts["interior"] + share * inner
            parts["corrected"] = parts.get("corrected", 0) + share * dice
        loss = sum(WEIGHTS[name] * part for name, part in parts.items())
        return loss, {name: float(part.detach()) for name, part in parts.items()}

    def _corrections(
        self, logits: dict[int, torch.Tensor], clicks: dict[int, list], share: float, batch: Batch, rng
    ) -> dict[int, list]:
        """A share of the prompts (number -> clicks), each with one click more, on what is wrong with its logits."""
        further = {}
        for prompt, former in logits.items():
            if rng.random() >= share:
                continue
            wanted, judged = (batch.mask[prompt] >= 0.5).cpu().numpy(), (batch.judged[prompt] > 0).cpu().numpy()
            drawn = np.where(judged, (former > 0).cpu().numpy(), wanted)
            if (click := correcting_click(drawn, wanted, MASK_STRIDE, rng)) is not None:
                further[prompt] = [*clicks[prompt], click]
        return further


def _of(features: Features, index: torch.Tensor) -> Features:
    return Features(*(None if level is None else level[index] for level in features))


def point_tensors(clicks: list[list], device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """Points and labels of P prompts as `SegmentorModel.decode` takes them; None twice where nobody clicked."""
    if not any(clicks):
        return None, None
    points, labels = padded(clicks)
    return torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device)


def _marks(masks: torch.Tensor, present: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    bce, dice = drawing_loss(masks[:, 0], batch.mask, batch.judged)
    seen = F.binary_cross_entropy_with_logits(present, batch.present, reduction="none")
    return {
        "mask": bce,
        "dice": dice,
        "interior": interior_loss(masks[:, 1], batch.interior, batch.told, batch.judged),
        "presence": (seen * batch.asked).sum() / batch.asked.sum().clamp(min=1),
    }


def drawing_loss(logits: torch.Tensor, target: torch.Tensor, judged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over judged cells, and 1 − Dice where there is something to draw; means over prompts.

    logits, target, judged: float32 (P, h, w).
    """
    there = (target > 0).any(2).any(1).to(target.dtype)
    weight = judged * (ABSENT + (1 - ABSENT) * there)[:, None, None]
    bce = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).mean()
    drawn, target = logits.sigmoid() * judged, target * judged
    overlap = 2 * (drawn * target).sum((1, 2)) + DICE_SMOOTH
    dice = 1 - overlap / (drawn.sum((1, 2)) + target.sum((1, 2)) + DICE_SMOOTH)
    return bce, (dice * there).sum() / there.sum().clamp(min=1)


def interior_loss(logits: torch.Tensor, target: torch.Tensor, told: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the interior where objects are told apart (told, bool (P,)); 0 where nowhere.

    logits, target, judged: float32 (P, h, w); judged: cells that count.
    """
    if not told.any():
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[told], target[told], judged[told])
