"""Guards of a reinforcement run: what it logs is watched, and it is stopped with one line that says why.

Each guard is a pure function of the run's log. Thresholds stand in the YAML's section `guards`; a guard looks at means
over `window` steps, so that one odd step stops nothing, and not before `warmup` steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from transformers import TrainerCallback

from slidekick.data.errors import InputError

Log = Sequence[Mapping[str, float]]  # a step's figures, oldest first


@dataclass(frozen=True)
class Guards:
    """Thresholds.

    window, warmup: steps. entropy: least share of the entropy at the start. reward: most that rewards may fall below
    what each task earned before. distinct: least share of different answers in a group. length: most that answers may
    grow or shrink by beside what each task's were, as a factor. truncated: most answers cut at the length limit, a
    share. kl: most, nats a token. parsed: least share of answers that can be read.
    """

    window: int = 8
    warmup: int = 10
    entropy: float = 0.2
    reward: float = 0.15
    distinct: float = 0.15
    length: float = 2.5
    truncated: float = 0.2
    kl: float = 0.5
    parsed: float = 0.25

    @classmethod
    def read(cls, section: Mapping, where: Path) -> Guards:
        """The checked section. Raises InputError that names the file and the key."""
        known = {field.name: field.type for field in fields(cls)}
        for key, value in section.items():
            if key not in known:
                raise InputError(f"{where}: guards has no key {key!r}; there are {', '.join(known)}")
            whole = known[key] == "int"
            right = type(value) is int if whole else isinstance(value, int | float) and not isinstance(value, bool)
            if not right or not value >= (1 if key == "window" else 0):
                raise InputError(f"{where}: guards.{key} is {value!r}; give a {'whole ' * whole}number from 0 on")
        return cls(**section)


def reason(log: Log, guards: Guards) -> str | None:
    """Why a run with this log should stop; None where it should go on."""
    if len(log) < guards.warmup + guards.window:
        return None
    first, last = log[: guards.window], log[-guards.window :]
    for look in (collapsed, worse, alike, drifted, cut, far, unread):
        if told := look(log, first, last, guards):
            return told
    return None


def mean(steps: Log, name: str) -> float | None:
    """Mean of a figure over the steps that have it; None where none has."""
    values = [step[name] for step in steps if step.get(name) is not None]
    return sum(values) / len(values) if values else None


def _against_usual(log: Log, guards: Guards, prefix: str) -> list[tuple[float, float]]:
    """(mean of the steps before, now) of each task in each of the last steps that have it, for one kind of figure."""
    before, last = log[: -guards.window], log[-guards.window :]
    tasks = sorted({name for step in last for name in step if name.startswith(prefix)} - {f"{prefix}all"})
    usual = {task: mean(before, task) for task in tasks}
    return [
        (usual[task], step[task])
        for task in tasks
        for step in last
        if usual[task] is not None and step.get(task) is not None
    ]


def collapsed(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """Entropy has nearly gone: the policy no longer tries anything."""
    before, now = mean(first, "entropy"), mean(last, "entropy")
    if before and now is not None and now < guards.entropy * before:
        return f"entropy fell from {before:.3f} to {now:.3f}, below {guards.entropy:g} of what it was"
    return None


def worse(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """Rewards have fallen: each task's is held against its own mean of the steps before, since a mean over all follows
    which tasks were drawn."""
    falls = [usual - now for usual, now in _against_usual(log, guards, "reward/")]
    fall = sum(falls) / len(falls) if falls else 0.0
    if fall > guards.reward:
        return f"rewards fell by {fall:.3f} below what each task had earned, more than {guards.reward:g}"
    return None


def alike(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """All answers of a group have become the same."""
    now = mean(last, "distinct")
    if now is not None and now < guards.distinct:
        return f"only {now:.0%} of a group's answers differ, less than {guards.distinct:.0%}"
    return None


def drifted(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """Answers grow or shrink. Each task's are held against their own mean of the steps before, as rewards are: a mean
    over all follows which tasks were drawn, and how often a tool is called."""
    logs = [math.log(now / usual) for usual, now in _against_usual(log, guards, "length/") if usual and now]
    factor = math.exp(sum(logs) / len(logs)) if logs else 1.0
    if not 1 / guards.length <= factor <= guards.length:
        return (
            f"answers became {factor:.2g} times as long as each task's had been, beyond a factor of {guards.length:g}"
        )
    return None


def cut(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """Too many answers do not end by themselves."""
    whole = mean(last, "complete")
    if whole is not None and 1 - whole > guards.truncated:
        return f"{1 - whole:.0%} of the answers were cut at the length limit, more than {guards.truncated:.0%}"
    return None


def far(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """The policy has left its reference."""
    now = mean(last, "kl")
    if now is not None and now > guards.kl:
        return f"KL to the reference is {now:.3f} nats a token, above {guards.kl:g}"
    return None


def unread(log: Log, first: Log, last: Log, guards: Guards) -> str | None:
    """Too few answers can be read."""
    now = mean(last, "parsed")
    if now is not None and now < guards.parsed:
        return f"{now:.0%} of the answers can be read, less than {guards.parsed:.0%}"
    return None


class GuardCallback(TrainerCallback):
    """Stops a run by its guards. reason: why it was stopped, else None."""

    def __init__(self, guards: Guards) -> None:
        self.guards = guards
        self.reason: str | None = None
        self.step = 0

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        steps = [entry for entry in state.log_history if "reward/all" in entry]
        if self.reason is None and (told := reason(steps, self.guards)):
            self.reason, self.step = told, state.global_step
            control.should_training_stop = True

    def last_good(self, folder: Path) -> Path | None:
        """The newest checkpoint in `folder` from before the steps that the guard judged; None where there is none."""
        before = self.step - self.guards.window
        made = {int(one.name.rsplit("-", 1)[1]): one for one in folder.glob("checkpoint-*")}
        return made.get(max((number for number in made if number <= before), default=-1))

    def told(self, kept: Path | None, otherwise: str = "nothing was learnt") -> dict:
        """The stop as the log's last entry. otherwise: what is told where no checkpoint was kept."""
        left = f"what is written is {kept.name}" if kept else otherwise
        return {"step": self.step, "stopped": f"stopped at step {self.step}: {self.reason}; {left}"}
