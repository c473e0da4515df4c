"""One base with four kinds of adapter, asked the same: none, one LoRA of equal size, PEFT's X-LoRA, our mixture.

Each arm is an evaluation of its own, kept in a folder as `slidekick evaluate` keeps one; the mixture is then held
against each other arm on the same questions and the same resamples (see `comparison.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slidekick.copilot.answer import RESEARCH_USE
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.experts import load_experts
from slidekick.copilot.mini import ABOUT, EXPERTS, folder_of, load_generalist, weights_hash
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.rl.evaluation.comparison import compare, save_run
from slidekick.rl.evaluation.run import Plan, evaluate

CLASSIFIER = "xlora_classifier.safetensors"  # what `rl/xlora.py` writes; named here, since that room loads PEFT
OURS, NONE, LORA, XLORA = "experts", "none", "lora", "xlora"
SCHEMA = "slidekick.arms/1"


@dataclass(frozen=True)
class Arms:
    """model: mini or a folder of its kind, the base of all arms. experts: the mixture, the model's own where None.
    lora: experts of one name; xlora: what `slidekick train xlora` wrote over `experts`; arms not given are left out."""

    model: str = "mini"
    experts: Path | None = None
    lora: Path | None = None
    xlora: Path | None = None

    @property
    def mixture(self) -> Path:
        """The folder of the mixture."""
        return self.experts or folder_of(self.model) / EXPERTS

    def check(self) -> None:
        """Raises InputError for a folder without what its arm needs, before any model is loaded."""
        needs = ((self.mixture, ABOUT, "experts"), (self.lora, ABOUT, "experts"), (self.xlora, CLASSIFIER, "xlora"))
        for folder, file, kind in needs:
            if folder is not None and not (folder / file).is_file():
                raise InputError(f"{folder}: no {file} in it; give what `slidekick train {kind}` wrote")

    def copilots(self, segmentor) -> Iterator[tuple[str, Copilot]]:
        """Each arm's name and its copilot, one after the other, so that one model is in memory at a time."""
        for name, folder in self._folders.items():
            if folder is not None or name == NONE:
                yield name, self.copilot(name, segmentor)

    def copilot(self, name: str, segmentor=None) -> Copilot:
        """One arm's copilot."""
        folder, base = self._folders[name], weights_hash(folder_of(self.model))
        weights = f"{base}+{weights_hash(folder) if folder else 'none'}"
        return Copilot(self._engine(name, folder), segmentor, weights)

    @property
    def _folders(self) -> dict[str, Path | None]:
        return {NONE: None, LORA: self.lora, XLORA: self.xlora, OURS: self.mixture}

    def _engine(self, name: str, folder: Path | None) -> TorchEngine:
        model, processor = load_generalist(self.model)
        if name == XLORA:
            from slidekick.rl.xlora import UncachedEngine, load_xlora

            return UncachedEngine(load_xlora(model, self.mixture, folder), processor, name, history=0)
        experts = load_experts(model, folder) if folder else None
        return TorchEngine(model, processor, name, history=0, experts=experts, pads=True)


def side_by_side(arms: Arms, plan: Plan, out: Path, segmentor=None) -> dict:
    """Evaluate every arm into `out`/ARM and compare; JSON-ready: figures of each arm, and ours less each other's.

    An interrupted run takes up where it was. Raises InputError as `evaluate` and `compare`.
    """
    arms.check()
    metrics: dict[str, dict] = {}
    for name, copilot in arms.copilots(segmentor):
        result = evaluate(copilot, replace(plan, beside=False), out / name / "answers.jsonl")
        save_run(out / name, result.summary, result.rows)
        metrics[name] = result.summary["metrics"]
    others = [name for name in metrics if name != OURS]
    return {
        "schema": SCHEMA,
        "what": "experts",
        "notice": RESEARCH_USE,
        "split": plan.split,
        "arms": metrics,
        "less": {name: compare(out / name, out / OURS)["metrics"] for name in others},
    }
