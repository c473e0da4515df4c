"""Tasks as reward functions in trl's form: (prompts, completions, **columns) -> a reward a row, None for other tasks.

Rollouts come, in this order, from the column `rollout` (what a `rollout_func` returned beside its tokens), from the
`steps` of each row's environment, or from the completion's own messages, which hold no masks. trl is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from slidekick.rl.tasks.generic import GENERIC
from slidekick.rl.tasks.task import Reward, Rollout, Task

RewardFunction = Callable[..., list[float | None]]


def reward_functions(tasks: Sequence[Task], ends: Collection[int] = ()) -> list[RewardFunction]:
    """A function for each task, named `reward_TASK`; rows of other tasks get None.

    ends: ids of the tokens that end a turn; where given, a completion that stops at another one was cut. A row's reward
    is multiplied by `truth["weight"]` (classes, mean 1, at most `labels.HEAVIEST`), which acts only where advantages
    are not divided by their group's spread (`scale_rewards` "none" or "batch"). Each function logs the shares of
    answers that could be read, and the parts.
    """
    return [_function(task, ends, lambda name, task=task: name == task.name) for task in tasks]


def generic_reward(ends: Collection[int] = ()) -> RewardFunction:
    """The one reward for rows of all tasks that knows of none (`generic.py`)."""
    return _function(GENERIC, ends, lambda name: True)


def _function(task: Task, ends: Collection[int], of_task: Callable[[str], bool]) -> RewardFunction:
    def reward(prompts: Sequence, completions: Sequence, **columns) -> list[float | None]:
        rewards: list[Reward | None] = []
        values: list[float | None] = []
        for index, name in enumerate(columns["task"]):
            if not of_task(name):
                rewards.append(None)
                values.append(None)
                continue
            truth = json.loads(columns["truth"][index])
            rollout = _rollout(completions, index, columns, ends)
            if task is not GENERIC and ("mask" in truth or "cells" in truth):
                _need_masks(rollout, task.name)
            rewards.append(task.reward(rollout, truth))
            values.append(rewards[-1].value * (1.0 if task is GENERIC else truth.get("weight", 1.0)))
        _log(task.name, [one for one in rewards if one], columns.get("log_metric"))
        return values

    reward.__name__ = f"reward_{task.name}"
    return reward


def _rollout(completions: Sequence, index: int, columns: dict, ends: Collection[int]) -> Rollout:
    if "rollout" in columns:
        return columns["rollout"][index]
    ids = columns.get("completion_ids")
    complete = not ends or ids is None or (bool(len(ids[index])) and int(ids[index][-1]) in ends)
    read = Rollout.of_messages(completions[index], complete)
    environments = columns.get("environments")
    if environments is None or not hasattr(environments[index], "steps"):
        return read
    return Rollout(read.text, tuple(environments[index].steps), complete)


def _need_masks(rollout: Rollout, name: str) -> None:
    """A trainer that lost the masks would teach that all calls are wrong."""
    if any(step.result.get("found") is True and step.mask is None for step in rollout.steps):
        raise ValueError(f"{name}: a tool found something and its mask was not kept; give rollouts or environments")


def _log(name: str, rewards: Sequence[Reward], log_metric: Callable[[str, float], None] | None) -> None:
    if log_metric is None or not rewards:
        return
    log_metric(f"{name}/parsed", sum(one.parsed for one in rewards) / len(rewards))
    for part in sorted({part for one in rewards for part in one.parts}):
        with_it = [one.parts[part] for one in rewards if part in one.parts]
        log_metric(f"{name}/{part}", sum(with_it) / len(with_it))
