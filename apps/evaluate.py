"""`slidekick evaluate answers|masks DATA`: figures on held-out items, with intervals, as table or JSON.

answers: the copilot's words beside logistic regression on the same features. masks: Dice where a concept is, "not
found" where it is not. DATA is a folder of sets with items.jsonl files. Writes figures and one line a sample to --out.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick evaluate`."""
    parser.add_argument("what", choices=("answers", "masks"), help="the copilot's words, or the segmentor's masks")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of sets, one set, or an items.jsonl")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="which items (default: test)")
    parser.add_argument("--set", action="append", dest="sets", metavar="NAME", help="only this set; may be repeated")
    parser.add_argument("--model", metavar="NAME", help="generalist or segmentor folder (default: ours)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for figures.json and samples.jsonl")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write where asked."""
    if args.out:
        check_writable(args.out)
    result = _answers(args) if args.what == "answers" else _masks(args)
    rows = result.pop("rows")
    if args.out:
        write_atomic(args.out / "figures.json", json.dumps(result, indent=1))
        write_atomic(args.out / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    print(json.dumps(result, indent=1) if args.json else _table(args.what, result))
    return 0


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("slidekick", "torch", "transformers")}


def _answers(args: argparse.Namespace) -> dict:
    if find_spec("sklearn") is None:
        raise InputError("scikit-learn is not installed; pip install 'slidekick[train]' brings it")
    from slidekick.apps.loading import load_copilot
    from slidekick.rl.evaluate import evaluate_answers

    copilot = load_copilot(args.model or "mini")
    return evaluate_answers(copilot, args.data, args.split, args.sets) | {"versions": copilot.versions}


def _masks(args: argparse.Namespace) -> dict:
    from slidekick.data.items import load_items
    from slidekick.grounding import Segmentor
    from slidekick.grounding.evaluate import ask_all, prompts, summary
    from slidekick.grounding.train import DEFAULT_CONFIG, load_config

    segmentor = Segmentor.from_pretrained(args.model)
    items = load_items(args.data, args.sets, args.split)
    rows = ask_all(segmentor, prompts(load_config(DEFAULT_CONFIG), items))
    return {"split": args.split, "figures": summary(rows), "rows": rows, "versions": _versions()}


def _table(what: str, result: dict) -> str:
    columns = {
        "answers": {"copilot": "copilot", "probe": "regression", "commonest": "commonest"},
        "masks": {
            "dice": "Dice",
            "found": "found",
            "absent_not_found": "absent: not found",
            "count_relative_error": "count error",
        },
    }[what]
    lines = [f"{'':22}" + "".join(f"{title:>30}" for title in columns.values())]
    for name, figures in result["figures"].items():
        lines.append(f"{name:22}" + "".join(f"{_cell(figures[key]):>30}" for key in columns))
    if what == "answers":
        means = result["mean_over_sets"]
        cells = [_cell(means[key]) for key in ("right", "probe_right", "common_right")]
        lines.append(f"{'mean over sets':22}" + "".join(f"{cell:>30}" for cell in cells))
        leaked = len(result["leaks"])
        lines.append(
            f"answers outside the set's labels: {result['outside']:.1%}; held-out pictures seen in training: {leaked}"
        )
    lines.append(f"{result['split']} split; 95 % bootstrap intervals. Research use only.")
    return "\n".join(lines)


def _cell(figure: dict) -> str:
    if figure["value"] is None:
        return "–"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}] n={figure['n']}"
