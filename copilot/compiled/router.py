"""Which experts speak, as `experts.Router` says it, in NumPy: two thin layers need no framework."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from slidekick.copilot.mini import ABOUT, ROUTER
from slidekick.data.errors import InputError, first_line

EPSILON = 1e-5  # of torch's LayerNorm


class Router:
    """names: of the experts it chooses among; everyone: and those aside. Read from a folder of experts."""

    def __init__(self, folder: Path, aside: tuple[str, ...] = ()) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            self.names, self.top = tuple(about["names"]), about["top"]
            self.everyone = (*self.names, *aside)
            self._parts = {name: array.astype(np.float32) for name, array in load_file(folder / ROUTER).items()}
            widths = (self._parts[f"{side}.0.weight"].shape[0] for side in ("picture", "question"))
            if not np.isfinite(self(*(np.ones(width, np.float32) for width in widths))).all():
                raise ValueError("weights are no numbers")
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            reason = first_line(error, 160)
            told = f"{folder}: no router of experts ({type(error).__name__}: {reason}); train it anew"
            raise InputError(told) from error

    def __call__(self, picture: np.ndarray, question: np.ndarray) -> np.ndarray:
        """float32 (1, K): weights for a picture (C,), zeros where there is none, and a question (D,)."""
        seen = self._side("picture", picture) if picture.any() else self._parts["none"]
        hidden = seen + self._side("question", question)
        drawn = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden.tolist()], np.float32)  # GELU
        logits = self._parts["score.1.weight"] @ drawn + self._parts["score.1.bias"]
        best = np.argsort(-logits, kind="stable")[: self.top]
        odds = np.exp(logits[best] - logits[best].max())
        gates = np.zeros((1, len(self.everyone)), np.float32)
        gates[0, best] = odds / odds.sum()
        return gates

    def alone(self, name: str) -> np.ndarray:
        """Weights (1, K) that let one expert speak and no other; "": none of them."""
        gates = np.zeros((1, len(self.everyone)), np.float32)
        if name:
            gates[0, self.everyone.index(name)] = 1
        return gates

    def told(self, gates: np.ndarray) -> dict[str, float]:
        """Weights (1, K) of the experts that speak, by name."""
        return {name: round(float(g), 4) for name, g in zip(self.everyone, gates[0], strict=True) if g > 0}

    def _side(self, name: str, x: np.ndarray) -> np.ndarray:
        scale, shift = self._parts[f"{name}.0.weight"], self._parts[f"{name}.0.bias"]
        normed = (x - x.mean()) / np.sqrt(x.var() + EPSILON) * scale + shift
        return self._parts[f"{name}.1.weight"] @ normed + self._parts[f"{name}.1.bias"]
