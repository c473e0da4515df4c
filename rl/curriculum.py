"""Which questions come next, and how far rewards of a task spread: two running records of a run, kept by checkpoints.

`Curriculum` draws rows most often where a task succeeds half of the time, since a group of equal rewards teaches
nothing (curriculum by success, as in Kimi k1.5, arXiv 2501.12599, and Bae et al. 2025, arXiv 2504.03380). `Spread`
scales advantages by the task and not by the group: a group's own deviation would give an easy question's rare slip the
weight of a hard question's rare success (Liu et al. 2025, arXiv 2503.20783).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from slidekick.data.errors import InputError

START = 0.5  # success that a kind of question is taken for before it was asked
MEMORY = 0.8  # of a kind's record after each group


class Curriculum:
    """Rows drawn by the running success of their kind, task and set together.

    kinds: of each row. floor: weight of a kind that always or never succeeds, against 1 for one that does half of the
    time; 1 draws evenly. tasks keep their shares among the rows: only kinds of one task compete.
    """

    def __init__(self, kinds: Sequence[tuple[str, str]], floor: float = 0.2) -> None:
        self.kinds, self.floor = list(kinds), floor
        self.success: dict[tuple[str, str], float] = dict.fromkeys(sorted(set(kinds)), START)
        self.asked = np.zeros(len(self.kinds), np.int64)

    def draw(self, rng: np.random.Generator, without: Collection[int] = ()) -> int:
        """A row: a task by its share, then one of its rows by weight over one more than the times it was asked."""
        task = self.kinds[int(rng.integers(len(self.kinds)))][0]
        rows = np.array([row for row, (name, _) in enumerate(self.kinds) if name == task and row not in without])
        if not len(rows):
            rows = np.array([row for row in range(len(self.kinds)) if row not in without])
        weights = np.array([self.weight(self.kinds[row]) for row in rows]) / (1.0 + self.asked[rows])
        row = int(rng.choice(rows, p=weights / weights.sum()))
        self.asked[row] += 1
        return row

    def weight(self, kind: tuple[str, str]) -> float:
        """4 s (1 − s) of its success s, the variance of a coin of that success, but `floor` at least."""
        success = self.success[kind]
        return max(self.floor, 4 * success * (1 - success))

    def note(self, row: int, rewards: Sequence[float]) -> None:
        """Keep how a group did; rewards: 0–1, before weights."""
        kind = self.kinds[row]
        self.success[kind] = MEMORY * self.success[kind] + (1 - MEMORY) * float(np.clip(np.mean(rewards), 0, 1))

    def state(self) -> dict:
        """JSON-ready."""
        success = [[*kind, value] for kind, value in self.success.items()]
        return {"success": success, "asked": self.asked.tolist()}

    def restore(self, state: Mapping) -> None:
        """The reverse of `state`. Raises InputError where it is of other rows."""
        success = {(task, name): value for task, name, value in state["success"]}
        if success.keys() != self.success.keys() or len(state["asked"]) != len(self.asked):
            raise InputError("the checkpoint is of other questions: the data or the section rows changed; train anew")
        self.success, self.asked = success, np.array(state["asked"], np.int64)


class Spread:
    """A running standard deviation of each task's rewards.

    memory: of the record after each group. least: below it no deviation falls, so that a task whose rewards hardly
    differ is not blown up.
    """

    def __init__(self, memory: float = 0.9, least: float = 0.1) -> None:
        self.memory, self.least = memory, least
        self._moments: dict[str, list[float]] = {}  # weight, mean, mean square

    def note(self, task: str, rewards: Sequence[float]) -> None:
        """Keep one group's rewards."""
        values = np.asarray(rewards, float)
        told = (1.0, float(values.mean()), float((values**2).mean()))
        before = self._moments.get(task, [0.0, 0.0, 0.0])
        new = 1 - self.memory
        # The weight is averaged too, so that the first groups count in full (as Adam corrects its moments).
        self._moments[task] = [self.memory * old + new * one for old, one in zip(before, told, strict=True)]

    def of(self, task: str) -> float:
        """The deviation; `least` for a task that was not seen."""
        weight, mean, square = self._moments.get(task, [0.0, 0.0, 0.0])
        if not weight:
            return self.least
        return max(self.least, max(0.0, square / weight - (mean / weight) ** 2) ** 0.5)

    def state(self) -> dict:
        """JSON-ready."""
        return dict(self._moments)

    def restore(self, state: Mapping) -> None:
        """The reverse of `state`."""
        self._moments = {name: list(values) for name, values in state.items()}


def advantages(rewards: np.ndarray, tasks: Sequence[str], spread: Spread) -> np.ndarray:
    """(groups, G) rewards -> the same: each less its group's mean, over its task's running deviation."""
    scale = np.array([spread.of(task) for task in tasks])[:, None]
    return (rewards - rewards.mean(1, keepdims=True)) / scale


def varied(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards differ, so that it teaches anything."""
    return max(rewards) - min(rewards) > 1e-6
