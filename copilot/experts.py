"""A mixture of LoRA experts: K ordinary PEFT adapters side by side, and a router that weighs them for each question.

The router reads the picture (pooled tower features) and the question (pooled word embeddings), never a task's name;
the best `top` experts share a softmax, and their weights hold for the whole answer (soft gates, Shazeer et al. 2017,
arXiv 1701.06538; a gate a sequence and not a token, as in SmartPath-R1). The experts' LoRA parts lie side by side, so
a mixture costs two thin products a layer whatever K is. On disk each expert is a PEFT folder that loads with PEFT
alone, beside `router.safetensors` and `experts.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from inspect import signature
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from slidekick.copilot.messages import questions
from slidekick.copilot.mini import ABOUT, ADAPTER_FILE, ROUTER
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import write_atomic

PREFIX = "base_model.model."  # PEFT's, before a module's name


@dataclass(frozen=True)
class ExpertPlan:
    """names: one an expert. rank, alpha: of each expert's LoRA (Hu et al. 2021). targets: pattern that the whole
    name of a linear layer must match. top: experts that may speak at once. hidden: width of the router. aside: further
    experts, which no router chooses: what is shown does, such as a slide."""

    names: tuple[str, ...]
    rank: int
    alpha: float
    targets: str
    top: int = 2
    hidden: int = 64
    aside: tuple[str, ...] = ()

    @classmethod
    def read(cls, section: object, where: Path, name: str = "experts", **given) -> ExpertPlan:
        """A section of a configuration, checked. name: of the section; given: fields that are not its to set.

        Raises InputError that names file, key and value.
        """
        if not isinstance(section, Mapping):
            raise InputError(f"{where}: section {name!r} is {section!r}, no mapping; see rl/configs/experts.yaml")
        known = [one.name for one in fields(cls) if one.name not in ("aside", *given)]
        for key, value in section.items():
            if key not in known:
                raise InputError(f"{where}: {name} has no key {key!r}; there are {', '.join(known)}")
            right, told = _KINDS[key]
            if isinstance(value, bool) or not right(value):
                raise InputError(f"{where}: {name}.{key} is {value!r}, not {told}")
        if missing := [key for key in known if key in ("names", "rank", "alpha", "targets") and key not in section]:
            raise InputError(f"{where}: {name}.{missing[0]} is missing; see rl/configs/experts.yaml")
        read = given | dict(section)
        return cls(**read | {"names": tuple(read["names"])})

    @property
    def everyone(self) -> tuple[str, ...]:
        """Names of all, those that the router chooses among first."""
        return (*self.names, *self.aside)

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


_WHOLE = (lambda value: isinstance(value, int) and value > 0, "a whole number from 1 on")
_KINDS = {  # of a configuration's keys: whether a value is right, and what is
    "names": (
        lambda value: isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value),
        "a list of names",
    ),
    "rank": _WHOLE,
    "alpha": (lambda value: isinstance(value, int | float) and value > 0, "a number above 0"),
    "targets": (_is_pattern, "a pattern of layers' names"),
    "top": _WHOLE,
    "hidden": _WHOLE,
}


class Router(nn.Module):
    """Which experts answer.

    forward: picture (B, C), a row of zeros where there is none, and question (B, D) -> logits (B, K). Both sides are
    normalised, so neither drowns the other; a missing picture is a learnt vector.
    """

    def __init__(self, picture_width: int, question_width: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.LayerNorm(picture_width), nn.Linear(picture_width, hidden))
        self.question = nn.Sequential(nn.LayerNorm(question_width), nn.Linear(question_width, hidden))
        self.none = nn.Parameter(torch.zeros(hidden))
        self.score = nn.Sequential(nn.GELU(), nn.Linear(hidden, experts))
        nn.init.normal_(self.score[1].weight, std=0.01)  # starts undecided
        nn.init.zeros_(self.score[1].bias)

    def forward(self, picture: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        picture, question = picture.to(self.none.dtype), question.to(self.none.dtype)  # models in 16 bits; it is in 32
        shown = (picture != 0).any(-1, keepdim=True)
        return self.score(torch.where(shown, self.picture(picture), self.none) + self.question(question))


def top_gates(logits: torch.Tensor, top: int) -> torch.Tensor:
    """Softmax over the `top` largest of logits (B, K), 0 elsewhere: weights (B, K) that add up to 1."""
    top = min(top, logits.shape[-1])
    best = logits.topk(top, dim=-1)
    return torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))


def balance_loss(logits: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """K · Σ_k f_k · p_k (Switch Transformer, Fedus et al. 2021, eq. 4): f the share of gates, p the mean probability.

    1 where all experts are used alike, K where one does everything.
    """
    return logits.shape[-1] * (gates.mean(0) * logits.softmax(-1).mean(0)).sum()


def information_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean entropy of each row's probabilities less the entropy of their mean: minus the mutual information of question
    and expert (as Mod-Squad has it for tasks, Chen et al. 2022, arXiv 2212.08066). −log K at best, 0 where the router
    cannot tell questions apart.

    The balance loss alone does not teach that: probabilities all alike satisfy it, and the largest of nearly equal ones
    is then the same expert for every question.
    """
    each, mean = logits.log_softmax(-1), logits.softmax(-1).mean(0)
    return -(each.exp() * each).sum(-1).mean() + (mean * mean.clamp(min=1e-9).log()).sum()


def z_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean squared log-sum-exp of the logits (ST-MoE, Zoph et al. 2022): keeps them from growing without end."""
    return logits.logsumexp(-1).square().mean()


class ExpertLinear(nn.Module):
    """A frozen linear layer plus the gated sum of K LoRA experts.

    forward: (B, …, in) -> (B, …, out): base(x) + s · Σ_k g_k B_k A_k x, with all A_k as one matrix and all B_k as one.
    """

    def __init__(self, base: nn.Linear, plan: ExpertPlan, gates: Gates) -> None:
        super().__init__()
        self.base, self.plan = base, plan
        self._gates = (gates,)  # in a tuple: shared, not a part of each layer
        width = plan.rank * len(plan.everyone)
        weight = base.weight
        self.down = nn.Parameter(weight.new_empty(width, base.in_features))
        self.up = nn.Parameter(weight.new_zeros(base.out_features, width))
        for rows in self.down.data.split(plan.rank):
            nn.init.kaiming_uniform_(rows, a=5**0.5)  # as PEFT

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, drawn = self._gates[0].weights(self.plan, x), self.base(x)
        if weights is None:
            return drawn
        return drawn + F.linear(F.linear(x, self.down) * weights, self.up)


class Gates:
    """The weights (B, K) that hold now, or None for the base alone."""

    def __init__(self) -> None:
        self._now: torch.Tensor | None = None
        self._ready: tuple[object, torch.Tensor] | None = None  # for all layers of a pass, made once

    @property
    def now(self) -> torch.Tensor | None:
        return self._now

    @now.setter
    def now(self, gates: torch.Tensor | None) -> None:
        self._now, self._ready = gates, None

    def weights(self, plan: ExpertPlan, x: torch.Tensor) -> torch.Tensor | None:
        """What the experts' rows are multiplied by, (B, 1, …, width) with as many axes as x; None without experts."""
        if self._now is None:
            return None
        key = (x.dtype, x.ndim, torch.is_inference_mode_enabled())
        if self._ready is None or self._ready[0] != key or self._now.requires_grad:
            made = self._now.to(x.dtype).repeat_interleave(plan.rank, -1) * plan.scaling
            self._ready = key, made.view(made.shape[0], *(1 for _ in range(x.ndim - 2)), -1)
        return self._ready[1]


class Experts(nn.Module):
    """All experts of a model and their router. The layers themselves stand in the model, in place of its own."""

    def __init__(self, model: nn.Module, plan: ExpertPlan, picture_width: int, question_width: int) -> None:
        """Puts expert layers into `model` where `plan.targets` matches. Raises InputError where it matches nothing."""
        super().__init__()
        self.plan = plan
        self._gates = Gates()
        self.router = Router(picture_width, question_width, len(plan.names), plan.hidden)
        pattern = re.compile(plan.targets)
        found = [
            name for name, part in model.named_modules() if isinstance(part, nn.Linear) and pattern.fullmatch(name)
        ]
        if not found:
            raise InputError(f"targets {plan.targets!r} matches no linear layer of {type(model).__name__}")
        self._layers = {name: ExpertLinear(model.get_submodule(name), plan, self._gates) for name in found}
        for name, layer in self._layers.items():
            model.set_submodule(name, layer)
        self.router.to(model.get_input_embeddings().weight.device)

    def route(self, picture: torch.Tensor, question: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gates and logits, (B, K) each; see `Router`."""
        logits = self.router(picture, question)
        return F.pad(top_gates(logits, self.plan.top), (0, len(self.plan.aside))), logits

    def alone(self, name: str) -> torch.Tensor:
        """Gates (1, K) that let one expert speak and no other; "": none of them."""
        gates = torch.zeros(1, len(self.plan.everyone), device=self.router.none.device)
        if name:
            gates[0, self.plan.everyone.index(name)] = 1
        return gates

    @contextmanager
    def speaking(self, gates: torch.Tensor | None) -> Iterator[None]:
        """Within it the model answers with the experts weighed by gates (B, K); None: with none of them."""
        before = self._gates.now
        self.speak(gates)
        try:
            yield
        finally:
            self.speak(before)

    def speak(self, gates: torch.Tensor | None) -> None:
        """The same from now on: for training, where a checkpointed layer runs again in the backward pass."""
        self._gates.now = gates

    def trainable(self) -> list[nn.Parameter]:
        """What training changes: the experts' matrices and the router."""
        return [*self.router.parameters(), *(p for layer in self._layers.values() for p in (layer.down, layer.up))]

    def teach_only(self, names: Sequence[str]) -> None:
        """From now on gradients reach none but the experts named; the router goes on learning.

        Adding an expert needs no more: the others stay as they are, to the bit, under an optimizer without weight
        decay.
        """
        parts = [self._part(name) for name in names]
        for layer in self._layers.values():
            for matrix, axis in ((layer.down, 0), (layer.up, 1)):
                kept = torch.zeros_like(matrix)
                for part in parts:
                    kept.narrow(axis, part.start, self.plan.rank).fill_(1)
                matrix.register_hook(lambda gradient, kept=kept: gradient * kept)

    def _part(self, name: str) -> slice:
        first = self.plan.rank * self.plan.everyone.index(name)
        return slice(first, first + self.plan.rank)

    def expert_state(self, name: str) -> dict[str, torch.Tensor]:
        """One expert as PEFT names it: lora_A (rank, in) and lora_B (out, rank) of every layer."""
        part = self._part(name)
        state = {}
        for where, layer in self._layers.items():
            state[f"{PREFIX}{where}.lora_A.weight"] = layer.down.detach()[part].contiguous()
            state[f"{PREFIX}{where}.lora_B.weight"] = layer.up.detach()[:, part].contiguous()
        return state

    def load_expert(self, name: str, state: dict[str, torch.Tensor]) -> None:
        """The reverse of `expert_state`. Raises InputError where a layer is missing or of another shape."""
        own = self.expert_state(name)
        if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
            odd = sorted(own.keys() ^ state.keys())[:1] or [key for key in own if own[key].shape != state[key].shape]
            raise InputError(f"expert {name!r} does not fit this model: {odd[0]} differs; train it on this base")
        part = self._part(name)
        with torch.no_grad():
            for where, layer in self._layers.items():
                layer.down[part] = state[f"{PREFIX}{where}.lora_A.weight"].to(layer.down)
                layer.up[:, part] = state[f"{PREFIX}{where}.lora_B.weight"].to(layer.up)

    def save(self, folder: Path, base: str) -> None:
        """A PEFT folder an expert, `router.safetensors` and `experts.json`, each written atomically in float16.

        base: what the adapters belong to, for adapter_config.json.
        """
        from slidekick.grounding.tower import float16_bytes

        for name in self.plan.names:
            write_atomic(folder / name / ADAPTER_FILE, float16_bytes(self.expert_state(name)))
            write_atomic(folder / name / "adapter_config.json", json.dumps(peft_config(self.plan, base), indent=1))
        write_atomic(folder / ROUTER, float16_bytes(self.router.state_dict()))
        about = {key: value for key, value in asdict(self.plan).items() if key != "aside"}
        about |= {"picture_width": self.router.picture[0].normalized_shape[0]}
        write_atomic(folder / ABOUT, json.dumps(about, indent=1))


def load_experts(
    model: nn.Module,
    folder: Path,
    names: Sequence[str] | None = None,
    new: Sequence[str] = (),
    aside: Mapping[str, Path] | None = None,
) -> Experts:
    """Put the experts saved in `folder` into `model`.

    names: only these of them, in this order. new: further ones to be taught, which say nothing yet and which the
    router gives as much as an expert that it knows nothing of (logit 0). aside: name -> folder of experts that the
    router does not choose.

    Raises InputError where a file is missing, is not what it should be, or does not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        picture_width, all_names = about.pop("picture_width"), tuple(about.pop("names"))
        known = tuple(names or all_names)
        plan = ExpertPlan(names=(*known, *new), **about | {"aside": tuple(aside or ())})
        router = load_file(folder / ROUTER)
        states = {name: load_file(folder / name / ADAPTER_FILE) for name in known}
        states |= {name: load_file(place / ADAPTER_FILE) for name, place in (aside or {}).items()}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        reason = first_line(error, 120)
        raise InputError(f"{folder}: no whole set of experts ({reason}); give a folder that training wrote") from error
    experts = Experts(model, plan, picture_width, model.get_input_embeddings().weight.shape[1])
    rows = [all_names.index(name) for name in known]
    for key in ("score.1.weight", "score.1.bias"):
        fresh = router[key].new_zeros(len(new), *router[key].shape[1:])
        router[key] = torch.cat([router[key][rows], fresh])
    try:
        experts.router.load_state_dict({key: value.float() for key, value in router.items()})
    except RuntimeError as error:
        raise InputError(f"{folder / ROUTER}: does not fit this model; train it on this base") from error
    for name, state in states.items():
        experts.load_expert(name, state)
    return experts.eval()


def peft_config(plan: ExpertPlan, base: str) -> dict:
    """adapter_config.json of one expert, so that PEFT loads it by itself."""
    from peft import LoraConfig

    config = LoraConfig(
        r=plan.rank, lora_alpha=plan.alpha, target_modules=plan.targets, task_type="CAUSAL_LM", inference_mode=True
    ).to_dict()
    config |= {"base_model_name_or_path": base}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def question_ids(messages: Sequence[dict], tokenizer) -> list[int]:
    """Token ids of the last question's text, which is what the router reads; empty where nothing was asked."""
    return tokenizer(asked[-1], add_special_tokens=False)["input_ids"] if (asked := questions(messages)) else []


def mean_embedding(embedding: nn.Embedding, ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean of the words' embeddings: ids (B, T), counted bool (B, T) -> (B, D); zeros where none counts."""
    with torch.no_grad():
        words = embedding(ids) * counted[..., None]
        return words.sum(1) / counted.sum(1, keepdim=True).clamp(min=1)


def pooled_picture(model: nn.Module, inputs) -> torch.Tensor:
    """Mean image token of one prompt's pictures as the language model is given them, (1, D); zeros without a picture.

    inputs: as the processor gives them, changed as `picture_means` does.
    """
    means = picture_means(model, inputs)
    return means.mean(0, keepdim=True) if len(means) else means.new_zeros(1, means.shape[1])


def picture_means(model: nn.Module, inputs) -> torch.Tensor:
    """Mean image token of each picture in a batch, (N, D), in their order; (0, D) where there is none.

    inputs: as the processor gives them. Where the model takes features, its pixel keys are replaced by them, so that
    the tower runs once.
    """
    if "mm_encoder_outputs" in inputs:  # a slide's tokens, which no tower made of one picture
        return inputs["mm_encoder_outputs"]["image"].pooler_output.mean(1)
    pixels = [key for key in inputs if key.startswith(("pixel_values", "image_grid", "image_sizes"))]
    if "pixel_values" not in pixels:
        return model.get_input_embeddings().weight.new_zeros(0, model.get_input_embeddings().embedding_dim)
    features = model.get_image_features(**{key: inputs[key] for key in pixels}, return_dict=True)
    if "mm_encoder_outputs" in signature(type(model).forward).parameters:  # trainers put a forward before the model's
        inputs["mm_encoder_outputs"] = {"image": features}
        for key in pixels:
            if key != "image_grid_thw":  # positions hang on it
                del inputs[key]
    tokens = features.pooler_output  # (N, T, D), or (T_i, D) each where pictures have sizes of their own
    return tokens.mean(1) if isinstance(tokens, torch.Tensor) else torch.stack([one.mean(0) for one in tokens])
