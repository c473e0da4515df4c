"""What reinforcement brings: trainings that differ in one thing, by several seeds, asked the same held-out questions.

Arms: `sft`, the supervised experts; `more`, the same taught on by examples for as long; `rl`, reinforced; `generic`,
with one reward for all families; `mixture`, experts taught anew; `lora`, one LoRA of their size in their place;
`lora-rl`, the same reinforced. Every arm but `sft`, `mixture` and `lora` is trained by each seed. What is done already
is not done again, so that arms can be run one by one, side by side, and after a break.

`python -m slidekick.apps.bench.study ARM ... --data DATA --out OUT [--seeds 1 2 3] [--start FOLDER]`
`python -m slidekick.apps.bench.study table --out OUT [--json]`
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEEDS = (1, 2, 3)
QUESTIONS = {"tasks": 700, "tools": 360, "classify": None}  # what is asked, and how many at most
PAIRS = (
    ("sft", "rl"), ("more", "rl"), ("generic", "rl"), ("sft", "more"), ("sft", "generic"), ("lora", "lora-rl"),
    ("sft", "mixture"), ("mixture", "lora"), ("rl", "lora-rl"),
)  # fmt: skip
# Columns of an answer that no figure is made of.
LEFT_OUT = ("task_truth", "parts", "returned", "template", "likeness", "own_words", "picture", "rouge_l", "split")
DONE = "minutes.json"  # of a training: minutes by the clock and of processors, once it has ended


@dataclass(frozen=True)
class Arm:
    """A training. what: "experts" or "grpo", None where nothing is trained. config: a file of rl/configs. changes:
    section -> keys that differ from it. start: the arm that it goes on from. seeded: whether it is trained by each
    seed. asked: kinds of `QUESTIONS`."""

    what: str | None = None
    config: str = ""
    changes: Mapping[str, object] = field(default_factory=dict)
    start: str = ""
    seeded: bool = True
    asked: tuple[str, ...] = ("tasks",)


ALONE = {"experts": {"names": ["all"], "rank": 32, "alpha": 64}}  # a LoRA of four experts' size
ARMS = {
    "sft": Arm(seeded=False, asked=tuple(QUESTIONS)),
    "more": Arm("experts", "experts-more.yaml"),
    "rl": Arm("grpo", "grpo.yaml", asked=tuple(QUESTIONS)),
    "generic": Arm("grpo", "grpo.yaml", {"rewards": "generic"}),
    "mixture": Arm("experts", "experts.yaml", seeded=False),
    "lora": Arm("experts", "experts.yaml", ALONE, seeded=False),
    "lora-rl": Arm("grpo", "grpo.yaml", start="lora"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and ask the arms named, or print the table; 2 for what a user can mend."""
    from slidekick.data.errors import SlidekickError

    parser = argparse.ArgumentParser(
        prog="slidekick.apps.bench.study", description="Measure what reinforcement brings."
    )
    parser.add_argument("arms", nargs="+", choices=[*ARMS, "table"], metavar="ARM", help=f"{', '.join(ARMS)}; or table")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of sets, to train on and ask about")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="seeds to train by (1 2 3)")
    parser.add_argument("--start", type=Path, metavar="DIR", help="mini with supervised experts (default: as shipped)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    args = parser.parse_args(arguments)
    try:
        for name in (one for one in args.arms if one != "table"):
            for seed in args.seeds if ARMS[name].seeded else (0,):
                run(name, seed, args)
        if "table" in args.arms:
            told = compared(args.out)
            print(json.dumps(told, indent=1) if args.json else as_text(told))
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    return 0


def folder_of(name: str, seed: int, out: Path) -> Path:
    """Where an arm's run lies."""
    return out / (f"{name}-{seed}" if ARMS[name].seeded else name)


def run(name: str, seed: int, args: argparse.Namespace) -> None:
    """Train an arm by a seed and ask it what its kind is asked."""
    from slidekick.copilot.copilot import Copilot
    from slidekick.copilot.mini import WEIGHTS
    from slidekick.data.errors import InputError
    from slidekick.rl.evaluation.comparison import holds_run, save_run
    from slidekick.rl.evaluation.run import Plan, calibrate, evaluate

    if args.data is None:
        raise InputError("give --data, the folder of sets to train on and ask about")
    arm, folder = ARMS[name], folder_of(name, seed, args.out)
    start = args.start or WEIGHTS
    model = trained(arm, seed, folder, start if not arm.start else folder_of(arm.start, 0, args.out) / "adapter", args)
    waiting = [what for what in arm.asked if not holds_run(folder / what)]
    copilot = Copilot.from_pretrained(str(model)) if waiting else None
    if "classify" in waiting and copilot.confidence is None:  # fitted for other weights
        copilot.confidence = calibrate(copilot, Plan("classify", args.data), folder / "val" / "answers.jsonl")
        copilot.confidence.save(model)
    for what in waiting:
        plan = Plan(what, args.data, limit=QUESTIONS[what], beside=what == "classify")
        result = evaluate(copilot, plan, folder / what / "answers.jsonl")
        save_run(folder / what, result.summary, [slim(row) for row in result.rows], zipped=True)


def slim(row: dict) -> dict:
    """A row with what figures and comparisons need, small enough to be published."""
    kept = {name: value for name, value in row.items() if name not in LEFT_OUT}
    kept["calls"] = [{"tool": call["tool"], "argument": call["argument"]} for call in row["calls"]]
    if row["logits"] is not None:
        kept |= {"logits": [], "probabilities": [round(one, 4) for one in row["probabilities"]]}
    return kept


def trained(arm: Arm, seed: int, folder: Path, start: Path, args: argparse.Namespace) -> Path:
    """The folder of an arm's model, trained where it is not there yet."""
    import yaml

    from slidekick.copilot.mini import ABOUT, EXPERTS, SLIDES
    from slidekick.data.configuration import read_yaml
    from slidekick.data.files import write_atomic
    from slidekick.rl import grpo
    from slidekick.rl.launch import CONFIGS
    from slidekick.rl.mixture import train_experts

    if arm.what is None:
        return start
    model = folder / "adapter"
    if (folder / DONE).is_file():
        return model
    config = read_yaml(CONFIGS / arm.config)
    config = changed(config, arm, seed, start)
    write_atomic(path := folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    resumed = {"resumed": True} if any(folder.rglob("checkpoint-*")) else {}  # then minutes are of the last part alone
    begun = time.perf_counter(), time.process_time()
    if arm.what == "grpo":
        grpo.train_grpo(path, args.data, folder, resume=True)
    else:
        add = start / EXPERTS if arm.config == "experts-more.yaml" else None
        experts = train_experts(path, args.data, folder, resume=True, add=add)
        grpo.copy_base(start, model)
        shutil.copytree(experts, model / EXPERTS, dirs_exist_ok=True)
        about = start / EXPERTS / ABOUT
        if about.is_file() and json.loads(about.read_text(encoding="utf-8"))["rank"] != config["experts"]["rank"]:
            shutil.rmtree(model / SLIDES, ignore_errors=True)  # their expert is of the start's rank
    clock, own = (now - then for now, then in zip((time.perf_counter(), time.process_time()), begun, strict=True))
    minutes = {"clock": round(clock / 60, 1), "processors": round(own / 60, 1)}
    write_atomic(folder / DONE, json.dumps(minutes | resumed))
    return model


def changed(config: dict, arm: Arm, seed: int, start: Path) -> dict:
    """A configuration with the arm's changes, its start and the seed; nothing is reported but to the log."""
    for name, value in arm.changes.items():
        config[name] = {**config[name], **value} if isinstance(value, Mapping) else value
    config["start"] = str(start)
    if arm.seeded:
        for section in ("rows", "grpo", "instructions", "sft"):
            if section in config:
                config[section]["seed"] = seed
    if "grpo" in config:
        config["grpo"]["report_to"] = "none"
    return config


# ---- the table


def compared(out: Path) -> dict:
    """Means of each arm over its seeds, and the differences of `PAIRS`, for all runs in `out`. Raises InputError where
    there is none."""
    from slidekick.data.errors import InputError
    from slidekick.rl.evaluation.comparison import compare, holds_run

    runs = {name: [p for p in places(name, out) if holds_run(p / "tasks")] for name in ARMS}
    if not any(runs.values()):
        raise InputError(f"{out}: no run of an arm in it; run some first")
    told: dict = {"runs": {name: [place.name for place in there] for name, there in runs.items() if there}}
    told["minutes"] = {
        place.name: json.loads((place / DONE).read_text())
        for there in runs.values()
        for place in there
        if (place / DONE).is_file()
    }
    told["pairs"] = {}
    for a, b in PAIRS:
        for what in QUESTIONS:
            sides = [[p / what for p in runs[name] if holds_run(p / what)] for name in (a, b)]
            if all(sides):
                told["pairs"].setdefault(f"{b} less {a}", {})[what] = compare(*sides)["figures"]
    return told


def places(name: str, out: Path) -> list[Path]:
    """Folders of an arm's runs, by their seeds."""
    if not ARMS[name].seeded:
        return [out / name]
    return sorted((p for p in out.glob(f"{name}-*") if p.name.removeprefix(f"{name}-").isdigit()), key=lambda p: p.name)


SHOWN = {
    "tasks": ("mean", "classification", "closed_vqa", "counting", "detection", "open_vqa", "report", "segmentation",
              "parsed"),
    "tools": ("tool_choice", "tool_arguments", "numbers_equal", "not_found_said", "all_right"),
    "classify": ("balanced_accuracy_mean", "own_words", "ece", "consistency_wording"),
}  # fmt: skip


def as_text(told: dict) -> str:
    """The table for people: a line a figure."""
    from slidekick.data.statistics import brief

    lines = [f"{name}: {', '.join(there)}" for name, there in told["runs"].items()]
    lines += [
        f"{name}: {one['clock']} min, {one['processors']} of processors{', after a break' if 'resumed' in one else ''}"
        for name, one in told["minutes"].items()
    ]
    for pair, kinds in told["pairs"].items():
        later, _, earlier = pair.split(" ", 2)
        lines.append(f"\n{pair:28}{earlier:>10}{later:>10}{'difference':>28}")
        for what, figures in kinds.items():
            for name in (one for one in SHOWN[what] if one in figures):
                one = figures[name]
                a, b = ("–" if one[key] is None else f"{one[key]:.3f}" for key in ("a", "b"))
                lines.append(f"{what}.{name:22.22}{a:>10}{b:>10}{brief(one['difference']):>28}")
    return "\n".join([*lines, "Paired 95 % bootstrap intervals over patients and seeds. Research use only."])


if __name__ == "__main__":
    sys.exit(main())
