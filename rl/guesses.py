"""What answers of mini usually say, so that its engine can guess its next tokens (`copilot/compiled/guesses.py`).

`train sft` writes it beside the adapter, and `python -m slidekick.rl.guesses CONFIG --data DATA --out FOLDER` writes it
anew for a folder of mini's, from the instructions of a configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from slidekick.copilot.compiled.guesses import Guesses
from slidekick.data.errors import SlidekickError
from slidekick.rl.instructions import Instruction


def guesses_of(made: Iterable[Instruction], tokenizer) -> Guesses:
    """What follows what in the words that instructions let the assistant say; calls are written under a grammar."""
    texts = (
        "".join(part["text"] for part in message["content"])
        for one in made
        for message in one.messages
        if message["role"] == "assistant" and message["content"]
    )
    end = tokenizer.eos_token_id
    return Guesses.of_turns([*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a folder's file anew; 2 for what a user can mend."""
    from transformers import AutoProcessor

    from slidekick.copilot.base import base_folder
    from slidekick.data.configuration import read_yaml
    from slidekick.rl.instructions.material import Plan, gather, make_lessons
    from slidekick.rl.mixture import check_sections

    parser = argparse.ArgumentParser(prog="slidekick.rl.guesses", description="Write what mini's answers usually say.")
    parser.add_argument("config", type=Path, help="a configuration with a section `instructions`")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of sets")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    args = parser.parse_args(arguments)
    try:
        check_sections(config := read_yaml(args.config), args.config, ("instructions",))
        plan = Plan.read(config["instructions"], args.config)
        tokenizer = AutoProcessor.from_pretrained(base_folder()).tokenizer
        made = make_lessons(plan, gather(args.data, plan.held_back))
        print(guesses_of(made, tokenizer).save(args.out))
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
