"""Samples a second of mini's rollouts beside trl's default generation, on the same prompts in the same process.

Ours (`rl/rollouts.py`) runs each prompt once, with its picture's map made before, and draws all its answers as branches
of one tree, in 8 bits; ended ones leave the step. trl's (`GRPOTrainer._generate_single_turn`) repeats prompt and
picture for each answer and pads to the longest. Model, experts and their weights, prompts, temperature and token budget
are the same; only ours draws under the tools' grammar. Both write one turn; calls are not run. They take turns, round
by round.
Samples are counted by the clock and by processor seconds, which other work on the machine changes less; rewards are
those of the task families, with their standard error over questions.

`python -m slidekick.apps.bench.rollouts --data DATA [--json]`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from slidekick.apps.bench.table import Row, machine, versions

TASKS = {"classification": 0.5, "closed_vqa": 0.3, "segmentation": 0.2}
GOAL = 3.0
PACKAGES = ("slidekick", "torch", "transformers", "trl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both and print them beside each other; 2 for what a user can mend."""
    from slidekick.data.errors import SlidekickError

    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.rollouts", description="Compare two ways to sample.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of sets")
    parser.add_argument("--groups", type=int, choices=range(1, 65), default=6, help="questions a round (6)")
    parser.add_argument("--answers", type=int, choices=range(2, 65), default=8, help="answers a question (8)")
    parser.add_argument("--rounds", type=int, choices=range(1, 100), default=4, help="rounds, the first not timed (4)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    try:
        facts = measure(args.data, args.groups, args.answers, args.rounds)
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    facts |= {"versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def measure(data: Path, groups: int, answers: int, rounds: int) -> dict:
    """Figures of both ways over `rounds` rounds, each of `groups` new questions."""
    from slidekick.rl.tasks import TASKS as FAMILIES

    with tempfile.TemporaryDirectory() as folder:
        trainer, prompts = prepared(data, Path(folder), groups * rounds, answers)
    ways: dict[str, Callable] = {"ours": drawn_here, "trl": drawn_by_trl}
    runs: dict[str, list[dict]] = {name: [] for name in ways}
    for number in range(rounds):
        some = prompts[number * groups : (number + 1) * groups]
        for name, way in ways.items():
            begun = time.perf_counter(), time.process_time()
            rollouts, tokens = way(trainer, some, answers, number)
            clock, own = time.perf_counter() - begun[0], time.process_time() - begun[1]
            means = [
                statistics.fmean(FAMILIES[p.row.task].reward(one, p.row.truth).value for one in group)
                for p, group in zip(some, rollouts, strict=True)
            ]
            runs[name].append({"clock_s": clock, "cpu_s": own, "tokens": tokens, "rewards": means})
    return compared(runs, groups * answers)


def prepared(data: Path, out: Path, count: int, answers: int):
    """(trainer, prompts) of the shipped configuration over questions that show a picture."""
    from slidekick.rl import grpo
    from slidekick.rl.launch import CONFIGS

    path = CONFIGS / "grpo.yaml"
    config = grpo.load_config(path)
    sizes = {"num_generations": answers, "per_device_train_batch_size": answers, "gradient_accumulation_steps": 1}
    config["grpo"] |= {**sizes, "report_to": "none", "max_completion_length": config["rollouts"]["budget"]}
    rows, material = grpo.read_rows({"count": 2 * count, "seed": 5, "tasks": TASKS}, path, data)
    shown = [row for row in rows if row.images][:count]
    config["rows"] |= {"views": 1}
    trainer, _ = grpo.make_trainer(config, path, shown, material, out)
    return trainer, [trainer.player.prompt(row) for row in shown]


def drawn_here(trainer, prompts, answers: int, seed: int):
    """(rollouts of each prompt, tokens written)."""
    import torch

    from slidekick.copilot.options import TurnProcessor
    from slidekick.rl.rollouts import Beginning, sample

    player = trainer.player
    with torch.no_grad():
        gates = player.gates(prompts)
    starts = [
        Beginning(
            tuple(p.ids),
            answers,
            lambda p=p: TurnProcessor(player.grammar.matcher(words=p.words)),
            p.picture,
            gates[i : i + 1],
        )
        for i, p in enumerate(prompts)
    ]
    generator = torch.Generator().manual_seed(seed)
    drawn = sample(player.model, player.experts, starts, player.budget, player.ends, generator, quick=player.quick)
    return [[rollout_of(player, turn.ids) for turn in turns] for turns in drawn], written(drawn)


def written(drawn) -> int:
    """Tokens of all turns."""
    return sum(len(turn.ids) for turns in drawn for turn in turns)


def drawn_by_trl(trainer, prompts, answers: int, seed: int):
    """The same by trl's default generation."""
    import torch
    from PIL import Image

    player = trainer.player
    repeated = [prompt for prompt in prompts for _ in range(answers)]
    pictures = [Image.open(prompt.row.images[0]).convert("RGB") for prompt in repeated]
    pixels = trainer.processing_class.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        gates = player.gates(prompts).repeat_interleave(answers, 0)
    torch.manual_seed(seed)
    with player.experts.speaking(gates):
        ids, _ = trainer._generate_single_turn([p.ids for p in repeated], None, {"pixel_values": pixels}, answers)
    rollouts = [rollout_of(player, one) for one in ids]
    groups = [rollouts[start : start + answers] for start in range(0, len(rollouts), answers)]
    return groups, sum(map(len, ids))


def rollout_of(player, ids: Sequence[int]):
    """What a turn's tokens say."""
    from slidekick.rl.tasks import Rollout

    complete = bool(len(ids)) and ids[-1] in player.ends
    kept = ids[:-1] if complete else ids
    text = player.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Rollout(text.strip(), complete=complete)


def compared(runs: dict[str, list[dict]], samples: int) -> dict:
    """Samples a second of both, all rounds but the first together, their ratios, and the mean rewards."""
    ways = {}
    for name, ran in runs.items():
        timed = ran[1:] or ran
        rewards = [value for one in ran for value in one["rewards"]]
        error = statistics.stdev(rewards) / len(rewards) ** 0.5 if len(rewards) > 1 else 0.0
        ways[name] = {
            "samples_s": samples * len(timed) / sum(one["clock_s"] for one in timed),
            "samples_cpu_s": samples * len(timed) / sum(one["cpu_s"] for one in timed),
            "tokens_a_sample": sum(one["tokens"] for one in timed) / (samples * len(timed)),
            "reward": statistics.fmean(rewards),
            "reward_error": error,
        }
    ratios = {key: ways["ours"][key] / ways["trl"][key] for key in ("samples_s", "samples_cpu_s")}
    rewards = zip(*([v for one in runs[name] for v in one["rewards"]] for name in ("ours", "trl")), strict=True)
    gaps = [ours - theirs for ours, theirs in rewards]  # question by question: what both find hard cancels
    spread = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    gap = {"mean": statistics.fmean(gaps), "error": spread, "questions": len(gaps)}
    both = [ways[name]["samples_s"] for name in ("ours", "trl")]
    row = Row("rollouts", "rollouts", "samples/s", both[0], "trl's default", both[1], least=GOAL)
    return {"rows": [row.to_dict()], "ways": ways, "ratios": ratios, "goal": GOAL, "reward_gap": gap}


def as_text(facts: dict) -> str:
    """The figures for people."""
    lines = [
        f"{name:<5} {way['samples_s']:.2f} samples/s, {way['samples_cpu_s']:.2f} a processor second, "
        f"{way['tokens_a_sample']:.1f} tokens each, mean reward {way['reward']:.3f} ± {way['reward_error']:.3f}"
        for name, way in facts["ways"].items()
    ]
    ratios, gap = facts["ratios"], facts["reward_gap"]
    lines.append(
        f"ours / trl: {ratios['samples_s']:.2f} x by the clock, {ratios['samples_cpu_s']:.2f} x a processor second "
        f"(goal {facts['goal']:g} x)"
    )
    lines.append(f"reward, ours less trl's: {gap['mean']:+.3f} ± {gap['error']:.3f} over {gap['questions']} questions")
    lines.append(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    return "\n".join([*lines, facts["machine"]])


if __name__ == "__main__":
    sys.exit(main())
