"""`slidekick train WHAT CONFIG --data DIR --out DIR`: train one of several parts from a YAML; --resume goes on.
`slidekick train instructions CONFIG --data DIR --card FILE.md` trains nothing: it tells what `sft` would be taught.

Progress goes to stderr, the summary to stdout. What is trained and how stands in the rooms; here is only the command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.files import check_writable

SCHEMA = "slidekick.train/1"
SFT_NEEDS = ("trl", "datasets")  # packages of the extra `train`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick train`."""
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for what, summary in (
        (
            "segmentor",
            "the text-prompted segmentor, such as grounding/configs/segmentor.yaml; then its card and figures",
        ),
        (
            "unets",
            "a U-Net for each set, as peers of the segmentor (`evaluate grounding --unets`), such as "
            "grounding/configs/unet.yaml",
        ),
        (
            "sft",
            "the generalist by supervised fine-tuning: mini (rl/configs/mini.yaml) or a model of the hub "
            "(rl/configs/qwen2_5_vl_3b.yaml)",
        ),
        ("experts", "a mixture of LoRA experts on top of mini, such as rl/configs/experts.yaml"),
        (
            "grpo",
            "the generalist by reinforcement: mini's experts (rl/configs/grpo.yaml) or a model of the hub "
            "(rl/configs/qwen2_5_vl_3b_grpo.yaml)",
        ),
        ("slides", "the slide encoder on top of mini, and the expert that reads it, such as rl/configs/slides.yaml"),
        ("xlora", "PEFT's X-LoRA over trained experts, the peer of their router, such as rl/configs/xlora.yaml"),
    ):
        kind = kinds.add_parser(what, help=summary, description=f"Train {summary}.")
        kind.add_argument("config", metavar="CONFIG", type=Path, help="YAML that names everything but the folders")
        kind.add_argument(
            "--data", required=True, type=Path, metavar="DIR", help="folder of sets, each with an items.jsonl"
        )
        kind.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for checkpoints and weights")
        kind.add_argument(
            "--resume", action="store_true", help="go on where the run in --out was left, if there is one"
        )
        if what == "unets":
            kind.add_argument("--minutes", type=float, metavar="M", help="for each set, in place of the YAML's")
        if what == "experts":
            kind.add_argument(
                "--add",
                type=Path,
                metavar="DIR",
                help="go on from these experts; one that they lack is taught alone",
            )
        if what == "xlora":
            kind.add_argument(
                "--experts", type=Path, required=True, metavar="DIR", help="the experts that `train experts` wrote"
            )
        kind.add_argument("--json", action="store_true", help="print JSON in place of text")
    summary = "the data card of what `sft` is taught: counts, examples, rules, licences"
    card = kinds.add_parser("instructions", help=summary, description=f"Write {summary}.")
    card.add_argument("config", metavar="CONFIG", type=Path, help="YAML of `train sft`, such as rl/configs/mini.yaml")
    card.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of sets, as for `train sft`")
    card.add_argument("--card", required=True, type=Path, metavar="FILE", help="the Markdown file to write")
    card.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Train, then print what was made and how well it does; or write a data card."""
    if args.what == "instructions":
        return describe_instructions(args)
    train = {
        "segmentor": train_segmentor,
        "sft": train_generalist,
        "experts": partial(train_mixture, add=getattr(args, "add", None)),
        "grpo": train_by_rewards,
        "slides": train_slide_reader,
        "xlora": partial(train_peer_mixture, experts=getattr(args, "experts", None)),
        "unets": partial(train_peers, minutes=getattr(args, "minutes", None)),
    }[args.what]
    if not args.config.is_file():
        raise InputError(f"{args.config}: no such file; give a YAML, such as grounding/configs/segmentor.yaml")
    check_writable(args.out)
    if not args.resume and args.out.is_dir() and any(args.out.iterdir()):
        raise InputError(f"{args.out}: not empty; add --resume to go on with the run in it, or give another folder")
    with contextlib.redirect_stdout(sys.stderr):  # trainers print what they log
        made = train(args.config, args.data, args.out, args.resume)
    summary = {"schema": SCHEMA, "what": args.what, "config": str(args.config), "out": str(args.out), **made}
    print(json.dumps(summary, indent=2) if args.json else as_text(summary))
    return 0


def train_segmentor(config: Path, data: Path, out: Path, resume: bool) -> dict:
    """Train, choose thresholds, write weights and card into `out`; the folder, the last loss and the test figures."""
    _check_extra("matplotlib")  # for the pictures at its end
    from slidekick.grounding.train import train

    log = train(config, data, out, resume=resume)
    from slidekick.grounding.finish import finish

    return {"weights": str(out), "log": log, "figures": finish(out, config, data)["figures"]}


def train_peers(config: Path, data: Path, out: Path, resume: bool, minutes: float | None) -> dict:
    """A U-Net for each set; sets that `out` holds finished are left. InputError for minutes that are none."""
    from slidekick.grounding.unet_training import load_unet_config, train_unets

    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"--minutes is {minutes}; give a number above 0")
    return {"weights": str(out), "log": {}, "sets": train_unets(load_unet_config(config), data, out, minutes)}


def train_generalist(config: Path, data: Path, out: Path, resume: bool) -> dict:
    """Train mini or a model of the hub; the adapter's folder, last logged figures. InputError without extra `train`."""
    _check_extra()
    from slidekick.rl.sft import train_sft

    return _logged(train_sft(config, data, out, resume=resume), out)


def train_mixture(config: Path, data: Path, out: Path, resume: bool, add: Path | None) -> dict:
    """Train experts and their router; their folder and the last logged figures. InputError as `train_generalist`."""
    _check_extra()
    from slidekick.rl.mixture import train_experts

    return _logged(train_experts(config, data, out, resume=resume, add=add), out)


def train_by_rewards(config: Path, data: Path, out: Path, resume: bool) -> dict:
    """Train by reinforcement, draw its curves; the adapter's folder, last logged figures, and why a guard stopped it,
    where one did. InputError as `train_generalist`."""
    _check_extra()
    from slidekick.rl.grpo import train_grpo

    folder = train_grpo(config, data, out, resume=resume)
    from slidekick.rl.grpo_curves import draw

    draw(json.loads((out / "log.json").read_text()), out / "curves.png")
    return _logged(folder, out)


def train_slide_reader(config: Path, data: Path, out: Path, resume: bool) -> dict:
    """Train slide encoder and slide expert; their folder, last logged figures. InputError as `train_generalist`."""
    _check_extra()
    from slidekick.rl.slides import train_slides

    return _logged(train_slides(config, data, out, resume=resume), out)


def train_peer_mixture(config: Path, data: Path, out: Path, resume: bool, experts: Path) -> dict:
    """Train X-LoRA's classifier; its folder and the last logged figures. InputError as `train_generalist`."""
    _check_extra()
    from slidekick.rl.xlora import train_xlora

    return _logged(train_xlora(config, data, out, experts, resume=resume), out)


def _check_extra(*needs: str) -> None:
    if missing := [name for name in needs or SFT_NEEDS if find_spec(name) is None]:
        raise InputError(f"{missing[0]} is not installed; pip install 'slidekick[train]' brings it")


def _logged(folder: Path, out: Path) -> dict:
    log = json.loads((out / "log.json").read_text())
    return {"weights": str(folder), "log": log[-1] if log else {}}


def describe_instructions(args: argparse.Namespace) -> int:
    """Write the data card of a configuration's instructions and print its headline."""
    _check_extra()
    from transformers import AutoTokenizer

    from slidekick.copilot.base import base_folder
    from slidekick.data.files import write_atomic
    from slidekick.rl.instructions.card import write_card
    from slidekick.rl.instructions.material import Plan
    from slidekick.rl.sft import load_config

    plan = Plan.read(load_config(args.config)["instructions"], args.config)
    check_writable(args.card.parent)
    with contextlib.redirect_stdout(sys.stderr):
        tokenizer = AutoTokenizer.from_pretrained(base_folder())
        text, headline = write_card(plan, args.data, str(args.config), tokenizer)
    write_atomic(args.card, text)
    if args.json:
        print(json.dumps({"schema": SCHEMA, "what": args.what, "card": str(args.card), **headline}, indent=2))
    else:
        seconds = sum(headline["seconds"].values())
        print(f"{headline['instructions']} instructions of {headline['tokens']} tokens in {seconds:.1f} s: {args.card}")
    return 0


def as_text(summary: dict) -> str:
    """The summary for people: one line a figure."""
    lines = [f"trained {summary['what']}: {summary['weights']}"]
    lines += [f"{name:<24} {value:.4g}" for name, value in summary["log"].items() if isinstance(value, int | float)]
    for name, about in summary.get("sets", {}).items():
        lines.append(f"{name:<24} {about['steps']} steps in {about['minutes']:g} min: {', '.join(about['concepts'])}")
    for concept, figures in summary.get("figures", {}).items():
        for name, figure in figures.items():
            if figure["n"]:
                told = figure["low"] is not None  # one patient alone says nothing of others
                interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]" if told else ""
                lines.append(f"{concept:<18} {name:<22} {figure['value']:.3f} {interval} n = {figure['n']}")
    return "\n".join(lines)
