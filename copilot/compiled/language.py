"""The compiled language model at work: a session of ONNX Runtime, its embeddings, and caches of keys and values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slidekick.copilot.compiled.graph import FUSED, GRAPH, WORDS, padded_rank
from slidekick.copilot.compiled.weights import Shape
from slidekick.grounding.runtime import cores

ABOUT = "language.json"  # shape, experts' number, rank and scaling, and the most positions
ROOM = 128  # positions that a cache's room is rounded up to


NEAR = 2.0  # logits within which of the largest the head's 8 bits could choose another
WEIGHTY = 5.0  # logits within which of the largest tokens take a share of the whole that counts


class Said:
    """What the model holds of the next token.

    logits: float32 (words,), with the error of 8 bits in the head, which is the largest of all. state: float32 (D,),
    what the head read, by which single logits are told without it. table: the embedding.
    """

    def __init__(self, logits: np.ndarray, state: np.ndarray, table: np.ndarray) -> None:
        self.logits, self.state, self.table = logits, state, table

    def likeliest(self, allowed: np.ndarray) -> int:
        """Of the tokens that are `allowed`, bool (words,)."""
        masked = np.where(allowed, self.logits, -np.inf)
        near = np.flatnonzero(masked > masked.max() - NEAR)
        return int(near[self._exact(near).argmax()]) if len(near) > 1 else int(masked.argmax())

    def log_odds(self, tokens: Sequence[int]) -> np.ndarray:
        """float64 (n,): log-probability of each of some tokens; never above 0, since what they are shares of holds them
        as exactly as they are told."""
        logits = self.logits.copy()
        known = np.union1d(np.flatnonzero(logits > logits.max() - WEIGHTY), tokens)
        logits[known] = self._exact(known)
        top = logits.max()
        whole = np.log(np.exp(logits - top).sum(dtype=np.float64))
        return logits[np.asarray(tokens)].astype(np.float64) - top - whole

    def _exact(self, tokens: Sequence[int]) -> np.ndarray:
        return (self.table[np.asarray(tokens)].astype(np.float32) @ self.state).astype(np.float64)


class LanguageModel:
    """folder: as `store.language_graph` gives it."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.folder = folder
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.shape = Shape(**about["shape"])
        self.experts, self.rank, self.scaling, self.longest = (
            about[key] for key in ("experts", "rank", "scaling", "longest")
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        self.words = np.load(folder / WORDS, mmap_mode="r")

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Token ids -> float32 (n, D)."""
        return self.words[np.asarray(ids, np.int64)].astype(np.float32)

    def cache(self, rows: int, length: int) -> Cache:
        """An empty cache for `length` positions in each of `rows`."""
        return Cache(self, rows, -(-length // ROOM) * ROOM)

    def gates(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """What the graph takes for experts' weights (B, K), by input; nothing for a model without experts."""
        if not self.experts:
            return {}
        spread = np.repeat(weights.astype(np.float32), self.rank, axis=1) * np.float32(self.scaling)
        made = {}
        for fused in sorted({len(parts) for parts in FUSED}):
            filled = np.zeros((len(weights), 1, padded_rank(fused * spread.shape[1])), np.float32)
            filled[:, 0, : fused * spread.shape[1]] = np.tile(spread, fused)
            made[f"gates{fused}"] = filled
        return made


class Cache:
    """Keys and values of B conversations, extended in place by each step.

    lengths: int (B,), positions that are held. room: positions that fit.
    """

    def __init__(self, model: LanguageModel, rows: int, room: int) -> None:
        import onnxruntime

        shape = model.shape
        self.model, self.room = model, room
        self.lengths = np.zeros(rows, np.int64)
        # Pages that no position was written to take no memory.
        self.held = np.zeros((shape.layers, 2, rows, shape.groups, room, shape.head), np.float32)
        self._binding = model.session.io_binding()
        for layer in range(shape.layers):
            for part, kind in enumerate(("key", "value")):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(self.held[layer, part])
                self._binding.bind_ortvalue_input(f"{kind}{layer}", value)
                self._binding.bind_ortvalue_output(f"new_{kind}{layer}", value)

    @property
    def length(self) -> int:
        """Positions held by the fullest row."""
        return int(self.lengths.max())

    def speak(self, weights: np.ndarray) -> None:
        """From now on the experts weigh as in `weights` (B, K)."""
        for name, value in self.model.gates(weights).items():
            self._binding.bind_cpu_input(name, value)

    def step(self, embeds: np.ndarray, said: int = 1) -> list[list[Said]]:
        """Add `embeds` (B, S, D) to all rows; what the model holds behind the last `said` of them, row by row.

        Several positions at once are for a cache of one row, or for an empty one. Raises ValueError where they do not
        fit.
        """
        rows, steps, _ = embeds.shape
        total = self.length + steps
        if total > self.room:
            raise ValueError(f"{total} positions do not fit a cache of {self.room}")
        chosen = np.broadcast_to(np.arange(steps - said, steps)[None, :, None], (rows, said, 1))
        inputs = {
            "embeds": np.ascontiguousarray(embeds, np.float32),
            "lengths": (self.lengths + steps - 1).astype(np.int32),
            "total": np.array([total], np.int32),
            "chosen": np.ascontiguousarray(chosen, np.int64),
        }
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        self._binding.bind_output("said")
        self._binding.bind_output("logits")
        self.model.session.run_with_iobinding(self._binding)
        self.lengths += steps
        states, logits = (value.numpy() for value in self._binding.get_outputs()[-2:])
        table = self.model.words
        return [[Said(*one, table) for one in zip(*row, strict=True)] for row in zip(logits, states, strict=True)]

    def rewind(self, length: int) -> None:
        """Forget what stands behind the first `length` positions of each row."""
        self.lengths = np.minimum(self.lengths, length)

    def rows(self, kept: Sequence[int]) -> Cache:
        """A cache of these rows alone, with the same room."""
        less = Cache(self.model, len(kept), self.room)
        length = int(self.lengths[list(kept)].max())
        less.held[..., :length, :] = self.held[:, :, list(kept), :, :length]
        less.lengths[:] = self.lengths[list(kept)]
        return less

    def copied(self, room: int, length: int) -> Cache:
        """A cache of its own that holds the first `length` positions of each row, with room for `room`."""
        copy = self.model.cache(len(self.lengths), room)
        copy.held[..., :length, :] = self.held[..., :length, :]
        copy.lengths[:] = np.minimum(self.lengths, length)
        return copy


def joined(caches: Sequence[Cache], room: int) -> Cache:
    """One cache whose rows are those of `caches`, with room for `room` positions."""
    model = caches[0].model
    whole = model.cache(sum(len(one.lengths) for one in caches), room)
    row = 0
    for one in caches:
        rows, length = len(one.lengths), one.length
        whole.held[:, :, row : row + rows, :, :length] = one.held[..., :length, :]
        whole.lengths[row : row + rows] = one.lengths
        row += rows
    return whole
