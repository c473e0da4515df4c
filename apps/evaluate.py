"""`slidekick evaluate answers|grounding DATA`: figures on held-out items, with intervals, as table or JSON.

answers: the copilot's words beside logistic regression on the same features. grounding: the segmentor's masks, objects
and "not found". DATA is a folder of sets with items.jsonl files. Figures, samples and pictures go to --out.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic

SCHEMA = "slidekick.evaluate/1"
RECORDED = "unets.json"  # beside the weights: Dice of each set's own U-Net on the test split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick evaluate`."""
    parser.add_argument("what", choices=("answers", "grounding"), help="the copilot's words, or the segmentor's masks")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("data", nargs="?", type=Path, metavar="DATA", help="folder of sets, one set, or an items.jsonl")
    place.add_argument("--items", type=Path, metavar="DATA", help="the same, by name")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="which items (default: test)")
    parser.add_argument("--set", action="append", dest="sets", metavar="NAME", help="only this set; may be repeated")
    parser.add_argument("--model", metavar="NAME", help="generalist or segmentor folder (default: ours)")
    parser.add_argument("--clicks", action="store_true", help="grounding: count the clicks to a Dice of 0.85 (minutes)")
    parser.add_argument(
        "--unets", type=Path, metavar="DIR", help="grounding: run these U-Nets beside it (`train unets`)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for figures.json, samples.jsonl and pictures")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write where asked."""
    args.data = args.items or args.data
    if args.out:
        check_writable(args.out)
    result = _answers(args) if args.what == "answers" else _grounding(args)
    rows = result.pop("rows")
    result = {"schema": SCHEMA, "what": args.what, **result}
    if args.out:
        write_atomic(args.out / "figures.json", json.dumps(result, indent=1))
        write_atomic(args.out / "samples.jsonl", "".join(json.dumps(row, default=_plain) + "\n" for row in rows))
    print(json.dumps(result, indent=1) if args.json else _table(args.what, result))
    return 0


def _plain(value):
    return value.tolist()


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("slidekick", "torch", "openvino")}


def _answers(args: argparse.Namespace) -> dict:
    if find_spec("sklearn") is None:
        raise InputError("scikit-learn is not installed; pip install 'slidekick[train]' brings it")
    from slidekick.apps.loading import load_copilot
    from slidekick.rl.evaluate import evaluate_answers

    copilot = load_copilot(args.model or "mini")
    return evaluate_answers(copilot, args.data, args.split, args.sets) | {"versions": copilot.versions}


def _grounding(args: argparse.Namespace) -> dict:
    from slidekick.data.items import load_items
    from slidekick.grounding import Segmentor
    from slidekick.grounding.evaluate import evaluate_grounding
    from slidekick.grounding.segmentor import WEIGHTS

    segmentor = Segmentor.from_pretrained(args.model)
    items = load_items(args.data, args.sets, args.split)
    if not items:
        raise InputError(f"{args.data}: no item in split {args.split!r}; give another --split")
    peers, source = {}, "none: give --unets"
    if args.unets:
        peers = _peers(args, segmentor, items)
        source = f"run from {args.unets.name}"
    elif (WEIGHTS / RECORDED).is_file():
        peers = json.loads((WEIGHTS / RECORDED).read_text())
        source = "as recorded on the test split of the training sets"
    result = evaluate_grounding(segmentor, items, clicks=args.clicks, peers=peers)
    if args.out:
        _pictures(args.out, segmentor, items, result)
    return {"split": args.split, "unet_source": source, "peers": peers, **result, "versions": _versions()}


def _peers(args: argparse.Namespace, segmentor, items: list) -> dict:
    """Dice of the U-Nets in --unets, of mean masks and of oracle boxes, by concept and set."""
    from slidekick.data.items import load_items
    from slidekick.grounding.baselines import by_set, compare
    from slidekick.grounding.train import DEFAULT_CONFIG, load_config

    train = load_items(args.data, args.sets, "train")
    return by_set(compare(segmentor, items, train, load_config(DEFAULT_CONFIG), args.unets))


def _pictures(out: Path, segmentor, items, result: dict) -> None:
    """The ten best and ten worst, Dice by concept, and how far probabilities can be believed."""
    from slidekick.grounding.charts import bars_png, reliability_png
    from slidekick.grounding.evaluate import renderer
    from slidekick.grounding.gallery import worst_and_best

    drawn = [row for row in result["rows"] if row["dice"] is not None]
    worst_and_best(drawn, renderer(segmentor, items), out)
    concepts = [name for name in segmentor.vocabulary.concepts if name in result["figures"]]
    bars = {name: result["figures"][name]["dice"] for name in concepts}
    write_atomic(out / "dice.png", bars_png(bars, title="Dice by concept"))
    for name, table in result["reliability"].items():
        write_atomic(out / f"reliability-{name}.png", reliability_png(table, title=f"Reliability, {name}"))


def _table(what: str, result: dict) -> str:
    columns = {
        "answers": {"copilot": "copilot", "probe": "regression", "commonest": "commonest"},
        "grounding": {"dice": "Dice", "absent_not_found": "absent: not found", "aji": "AJI", "pq": "PQ"},
    }[what]
    lines = [f"{'':34}" + "".join(f"{title:>27}" for title in columns.values())]
    for name, figures in result["figures"].items():
        lines.append(f"{name:34}" + "".join(f"{_cell(figures[key]):>27}" for key in columns))
    for name, figures in result.get("apart", {}).items():
        if name != "all":
            lines.append(f"{name + ' (set apart)':34}" + "".join(f"{_cell(figures[key]):>27}" for key in columns))
    if what == "answers":
        means = result["mean_over_sets"]
        cells = [_cell(means[key]) for key in ("right", "probe_right", "common_right")]
        lines.append(f"{'mean over sets':34}" + "".join(f"{cell:>27}" for cell in cells))
        leaked = len(result["leaks"])
        lines.append(
            f"answers outside the set's labels: {result['outside']:.1%}; held-out pictures seen in training: {leaked}"
        )
    else:
        lines += [f"{name:34}{_cell(figure):>27}" for name, figure in result["headline"].items()]
        if (lead := result["metrics"]["dice_mean_minus_unet"]) is not None:
            lines.append(f"{'mean Dice less the sets’ U-Nets':34}{lead:>+27.3f}   ({result['unet_source']})")
    lines.append(f"{result['split']} split; 95 % bootstrap intervals. Research use only.")
    return "\n".join(lines)


def _cell(figure: dict) -> str:
    from slidekick.data.statistics import brief

    return brief(figure) + (f" n={figure['n']}" if figure["value"] is not None else "")
