"""Curves of a reinforcement run from its log: reward of each task, KL, length, entropy, and how much can be read.

`python -m slidekick.rl.grpo_curves LOG.json CURVES.png` draws them anew. A thin line is each step, a thick one the
running mean over `SMOOTH` steps; a step asks few questions, so that single steps say little.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError, SlidekickError, first_line
from slidekick.data.files import stream_atomic

SMOOTH = 10
PREFIX = "reward/"
PANELS = {
    "KL to the start, nats a token": {"kl": "KL"},
    "tokens an answer": {"completions/mean_length": "mean length"},
    "entropy, nats a token": {"entropy": "entropy"},
    "share of answers": {"parsed": "can be read", "complete": "ended by themselves", "groups/flat": "flat groups"},
    "tool calls an answer; sampling against training": {"calls": "calls", "sampling/ratio": "importance ratio"},
}


def series(log: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a figure, where it was logged."""
    told = [(entry["step"], entry[name]) for entry in log if entry.get(name) is not None]
    return np.array([step for step, _ in told]), np.array([value for _, value in told], float)


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the last `SMOOTH` values, fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - SMOOTH)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(log: Sequence[Mapping], file: Path) -> None:
    """Draw a log as `train_grpo` writes it into a PNG. Raises InputError for a log without a step."""
    tasks = sorted({name for entry in log for name in entry if name.startswith(PREFIX)} - {f"{PREFIX}all"})
    if not tasks:
        raise InputError(f"{file}: there is no step in the log to draw; give the log.json of `train grpo`")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rewards = {name: name.removeprefix(PREFIX).replace("_", " ") for name in tasks} | {f"{PREFIX}all": "all"}
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), constrained_layout=True)
    for axis, (title, lines) in zip(axes.flat, {"mean reward of each task": rewards, **PANELS}.items(), strict=True):
        for name, label in lines.items():
            steps, values = series(log, name)
            if not len(steps):
                continue
            (line,) = axis.plot(
                steps, smooth(values), linewidth=2, label=label, color="black" * (label == "all") or None
            )
            axis.plot(steps, values, linewidth=0.5, alpha=0.35, color=line.get_color())
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    stopped = [entry["stopped"] for entry in log if "stopped" in entry]
    if stopped:
        figure.suptitle(stopped[-1], color="firebrick", fontsize=10)
    with stream_atomic(file) as stream:
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> int:
    """Draw one log; 2 for what a user can mend."""
    if len(arguments) != 2:
        print("usage: python -m slidekick.rl.grpo_curves LOG.json CURVES.png", file=sys.stderr)
        return 2
    try:
        draw(json.loads(Path(arguments[0]).read_text(encoding="utf-8")), Path(arguments[1]))
    except (SlidekickError, OSError, ValueError) as error:
        print(f"slidekick: {first_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
