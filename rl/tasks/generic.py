"""One reward for all families, which knows of none: the arm without task-awareness.

It is what instruction tuning without verifiable truth would have: likeness of the final text to a reference answer.
"""

from __future__ import annotations

from slidekick.rl.parsing import open_text, plain
from slidekick.rl.tasks.saying import bag_f1
from slidekick.rl.tasks.task import Rollout, Task, Truth


def read(rollout: Rollout, truth: Truth) -> str | None:
    """The answer's words."""
    return open_text(rollout.text) and rollout.text


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """F1 of the words of the final text and the right answer (`saying.bag_f1`); tools are not looked at."""
    return {"score": bag_f1(plain(said).split(), plain(truth["answer"]).split())}


GENERIC = Task("generic", None, read, score)
