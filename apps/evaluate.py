"""`slidekick evaluate WHAT DATA`: figures on held-out items with intervals, as table, JSON, files and a page.

classify, vqa, detect, count, report, tasks: the generalist's answers; tools: its tool calls (docs/evaluation.md).
grounding: the segmentor's masks, objects and "not found". slides: whole slides that `slidekick compose` wrote. compare:
two runs of the generalist side by side. experts: the same base with no adapter, one LoRA, X-LoRA and the mixture of
experts. DATA is a folder of sets, a set, or a file.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from slidekick.apps import evaluate_slides
from slidekick.apps.loading import add_model, load_copilot, silence, tell
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic

SCHEMA = "slidekick.evaluate/1"
RECORDED = "unets.json"  # beside the weights: Dice of each set's own U-Net on the test split
JOURNAL = "answers.jsonl"  # in --out: what was answered so far
GENERALIST = {
    "classify": "labels of pictures, beside simple classifiers and a blank picture",
    "vqa": "questions that came with the data: JSON lines, lmms-eval task YAML, VLMEvalKit TSV",
    "detect": "boxes",
    "count": "numbers of objects",
    "report": "reports and captions, word by word",
    "tools": "whether the right tool is called with the right word, and its numbers repeated",
    "tasks": "the families that are reinforced, each by its own metric, masks and all",
    "honesty": "questions without an answer: what is absent, cannot be told, no tissue, or claimed wrongly",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick evaluate`."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, summary in GENERALIST.items():
        _add_generalist(what.add_parser(name, help=summary, description=f"{summary.capitalize()}."), name)
    _add_grounding(what.add_parser("grounding", help="the segmentor's masks, objects and “not found”"))
    _add_experts(what.add_parser("experts", help="the mixture of experts beside one LoRA, X-LoRA and no adapter"))
    slides = what.add_parser("slides", help="whole slides whose truth is known (`slidekick compose`)")
    evaluate_slides.add_arguments(slides)
    side = what.add_parser("compare", help="two runs of the generalist, figure by figure")
    for run in ("run_a", "run_b"):
        told = "a folder that --out wrote, or its samples.jsonl; several, such as seeds, joined by commas"
        side.add_argument(run, metavar=run.upper(), help=told)
    side.add_argument("--json", action="store_true", help="print JSON in place of a table")


def _add_generalist(parser: argparse.ArgumentParser, name: str) -> None:
    _add_data(parser)
    add_model(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="at most N questions, the same ones each time")
    parser.add_argument("--text-only", action="store_true", help="ask everything with a blank picture")
    parser.add_argument("--tsv", type=Path, metavar="FILE", help="write the answers as a VLMEvalKit table too")
    if name == "classify":
        parser.add_argument("--perturb", action="store_true", help="ask a sample turned, compressed and restained too")
        parser.add_argument(
            "--risk", type=float, default=0.1, help="share wrong that coverage is told for (default 0.1)"
        )
        parser.add_argument(
            "--calibrate", action="store_true", help="first fit the confidence on val, into the model's folder"
        )
    _add_out(parser, "figures.json, samples.jsonl and a page; an interrupted run takes up there")


def _add_grounding(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--model", metavar="DIR", help="a segmentor of your own (default: ours)")
    parser.add_argument("--clicks", action="store_true", help="count the clicks to a Dice of 0.85 (minutes)")
    parser.add_argument("--unets", type=Path, metavar="DIR", help="run these U-Nets beside it (`train unets`)")
    _add_out(parser, "figures.json, samples.jsonl and pictures")


def _add_experts(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--model", default="mini", metavar="NAME", help="mini, or a folder of its kind: the base")
    parser.add_argument("--experts", type=Path, metavar="DIR", help="the mixture (default: the model's own)")
    parser.add_argument("--lora", type=Path, metavar="DIR", help="one LoRA: experts of a single name")
    parser.add_argument("--xlora", type=Path, metavar="DIR", help="X-LoRA over the mixture's experts (`train xlora`)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N questions, the same ones each time")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for every arm's answers")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of sets, one set, or a file of items")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="which items (default: test)")
    parser.add_argument("--set", action="append", dest="sets", metavar="NAME", help="only this set; may be repeated")


def _add_out(parser: argparse.ArgumentParser, writes: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder for {writes}")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write where asked."""
    if args.what == "compare":
        return _compare(args)
    if args.what == "slides":
        return evaluate_slides.run(args)
    if getattr(args, "limit", None) is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit} leaves nothing to ask; give 1 or more")
    if args.what == "experts":
        return _experts(args)
    if args.out:
        check_writable(args.out)
    summary, rows = _grounding(args) if args.what == "grounding" else _generalist(args)
    if args.out:
        from slidekick.rl.evaluation.comparison import save_run

        save_run(args.out, summary, rows)
    table = _grounding_table if args.what == "grounding" else _metrics_table
    print(json.dumps(summary, indent=1) if args.json else table(summary))
    return 0


# ---- the generalist


def _generalist(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    _check_installed(*["sklearn"] * (args.what == "classify"), *["matplotlib"] * bool(args.out))
    if not 0 <= getattr(args, "risk", 0) < 1:
        raise InputError(f"--risk {args.risk} is no share; give a number from 0 to below 1, such as 0.1")
    copilot = load_copilot(args.model, args.segmentor, extended=False, runtime=args.runtime)
    from slidekick.rl.evaluation.run import Plan, evaluate

    own = {key: getattr(args, key) for key in ("risk", "perturb") if hasattr(args, key)}
    sets = tuple(args.sets) if args.sets else None
    plan = Plan(args.what, args.data, args.split, sets, args.limit, text_only=args.text_only, **own)
    journal = args.out / JOURNAL if args.out else None
    if getattr(args, "calibrate", False):
        _calibrate(args, copilot, plan, journal)
    result = evaluate(copilot, plan, journal)
    if args.out:
        from slidekick.rl.evaluation.page import to_html

        page = write_atomic(args.out / "evaluation.html", to_html(result.summary, result.rows, result.questions))
        tell(f"wrote {page}")
    if args.tsv:
        from slidekick.rl.evaluation.formats import to_tsv

        pictures = {name: one.picture for name, one in result.questions.items()}
        tell(f"wrote {write_atomic(args.tsv, to_tsv(result.rows, pictures, args.tsv.resolve().parent))}")
    return result.summary, result.rows


def _calibrate(args: argparse.Namespace, copilot, plan, journal: Path | None) -> None:
    """Fit on val, keep it in the model's folder, and go on with it."""
    from slidekick.copilot.mini import TOWER, folder_of
    from slidekick.copilot.sight import Sight
    from slidekick.rl.evaluation.run import calibrate, fit_sight

    folder = folder_of(args.model)
    if not folder.is_dir():
        raise InputError(f"{args.model}: a confidence is kept in the model's folder; give a model that lies in one")
    check_writable(folder)
    copilot.confidence = calibrate(copilot, plan, journal)
    tell(f"wrote {copilot.confidence.save(folder)}: temperature {copilot.confidence.temperature:.3f}")
    if (folder / TOWER).is_file():
        taught = fit_sight(copilot, plan)
        copilot.sight = Sight(taught)
        tell(f"wrote {taught.save(folder)}: strange from {taught.most:.3f}")


def _metrics_table(summary: dict) -> str:
    from slidekick.rl.evaluation.page import figures_of

    lines = [f"{name:40}{_cell(one):>32}" for name, one in figures_of(summary["metrics"]).items()]
    if summary["without_picture"]:
        lines.append(f"{summary['without_picture']} questions were asked with a blank picture")
    lines += summary["warnings"]
    lines.append(f"held-out items that also occur in training: {len(summary['leaks'])}")
    lines.append(f"{summary['model']}; {summary['split']} split; read by {summary['parser']}; {summary['seconds']} s")
    lines.append("95 % bootstrap intervals over patients or sources. Research use only.")
    return "\n".join(lines)


def _compare(args: argparse.Namespace) -> int:
    from slidekick.rl.evaluation.comparison import compare

    result = compare(*([Path(one) for one in side.split(",")] for side in (args.run_a, args.run_b)))
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    a, b = result["runs"]
    print(f"{'':36}{a[:12]:>12}{b[:12]:>12}{'difference':>26}")
    for name, one in result["figures"].items():
        cells = [f"{'–' if one[key] is None else format(one[key], '.3f'):>12}" for key in ("a", "b")]
        print(f"{name:36}{''.join(cells)}{_cell(one['difference']):>26}")
    print(f"{result['common']} common questions; paired 95 % bootstrap intervals. Research use only.")
    return 0


def _experts(args: argparse.Namespace) -> int:
    _check_installed("sklearn", "matplotlib")
    check_writable(args.out)
    silence()
    from slidekick.rl.evaluation.arms import OURS, Arms, side_by_side
    from slidekick.rl.evaluation.run import Plan
    from slidekick.rl.evaluation.specialisation import expert_weights, heat_map

    arms = Arms(args.model, args.experts, args.lora, args.xlora)
    plan = Plan("classify", args.data, args.split, tuple(args.sets) if args.sets else None, args.limit)
    result = side_by_side(arms, plan, args.out)
    weights = expert_weights(arms.copilot(OURS).engine, args.data, args.split)
    picture = write_atomic(args.out / "experts.png", heat_map(weights))
    result |= {"weights": weights}
    write_atomic(args.out / "experts.json", json.dumps(result, indent=1))
    tell(f"wrote {picture}")
    print(json.dumps(result, indent=1) if args.json else _experts_table(result))
    return 0


def _experts_table(result: dict) -> str:
    from slidekick.rl.evaluation.page import figures_of

    lines = []
    for name, metrics in result["arms"].items():
        lines += [f"{name:10}{key:40}{_cell(one):>32}" for key, one in figures_of(metrics).items() if "." not in key]
    for name, metrics in result["less"].items():
        told = {key: one for key, one in figures_of(metrics).items() if key == "balanced_accuracy_mean"}
        lines += [f"experts less {name:8}{key:30}{_cell(one):>32}" for key, one in told.items()]
    lines.append(f"{result['split']} split; paired 95 % bootstrap intervals. Research use only.")
    return "\n".join(lines)


def _check_installed(*modules: str) -> None:
    if missing := [name for name in modules if find_spec(name) is None]:
        raise InputError(f"{missing[0]} is not installed; pip install 'slidekick[train]' brings it")


# ---- the segmentor


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("slidekick", "torch", "openvino")}


def _grounding(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    from slidekick.data.items import load_items
    from slidekick.grounding import Segmentor
    from slidekick.grounding.evaluate import evaluate_grounding
    from slidekick.grounding.segmentor import WEIGHTS

    _check_installed(*["matplotlib"] * bool(args.out))
    segmentor = Segmentor.from_pretrained(args.model)
    items = load_items(args.data, args.sets, args.split)
    if not items:
        raise InputError(f"{args.data}: no item in split {args.split!r}; give another --split")
    peers, source = {}, "none: give --unets"
    if args.unets:
        peers = _peers(args, segmentor, items)
        source = f"run from {args.unets.name}"
    elif args.split == "test" and (WEIGHTS / RECORDED).is_file():
        peers = json.loads((WEIGHTS / RECORDED).read_text())
        source = "as recorded on the test split of the training sets"
    result = evaluate_grounding(segmentor, items, clicks=args.clicks, peers=peers)
    if args.out:
        _pictures(args.out, segmentor, items, result)
    rows = result.pop("rows")
    told = {"schema": SCHEMA, "what": "grounding", "split": args.split, "unet_source": source, "peers": peers}
    return told | result | {"versions": _versions()}, rows


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


def _grounding_table(result: dict) -> str:
    columns = {"dice": "Dice", "absent_not_found": "absent: not found", "aji": "AJI", "pq": "PQ"}
    lines = [f"{'':34}" + "".join(f"{title:>27}" for title in columns.values())]
    for name, figures in result["figures"].items():
        lines.append(f"{name:34}" + "".join(f"{_cell(figures[key]):>27}" for key in columns))
    for name, figures in result.get("apart", {}).items():
        if name != "all":
            lines.append(f"{name + ' (set apart)':34}" + "".join(f"{_cell(figures[key]):>27}" for key in columns))
    lines += [f"{name:34}{_cell(figure):>27}" for name, figure in result["headline"].items()]
    if (lead := result["metrics"]["dice_mean_minus_unet"]) is not None:
        lines.append(f"{'mean Dice less the sets’ U-Nets':34}{lead:>+27.3f}   ({result['unet_source']})")
    lines.append(f"{result['split']} split; 95 % bootstrap intervals. Research use only.")
    return "\n".join(lines)


def _cell(figure: dict) -> str:
    from slidekick.data.statistics import brief

    return brief(figure) + (f" n={figure['n']}" if figure["value"] is not None else "")
