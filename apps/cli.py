"""The `slidekick` command: finds the subcommand, loads only its module, and turns errors into one line.

A subcommand is a module beside this file with `add_arguments(parser)` and `run(args) -> int` (the exit code), and
one line in COMMANDS. Only the standard library is imported here, so that help comes at once; a subcommand's own
heavy imports belong inside `run`. Exit codes: 0 done, 1 a check failed, 2 something to mend, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from slidekick.data.errors import SlidekickError
from slidekick.data.memory import Watch, is_refused

COMMANDS = {
    "ask": "answer a question about a picture, with the evidence",
    "case": "ask several slides of a patient one question",
    "batch": "ask many slides, on several workers or a cluster",
    "segment": "find structures by name: masks, numbers, overlay",
    "report": "draft a report on a picture, every finding with its evidence",
    "revise": "read an edited draft back, and write its files anew",
    "chat": "open the chat page in a browser",
    "serve": "answer over HTTP as OpenAI's servers do, with masks and tiles",
    "demo": "a first look at real tissue: three questions and a report",
    "slide": "show what a slide file holds",
    "vocabulary": "show the words that the segmentor knows",
    "compose": "paint slides with labelled pictures, to ask about and to test on",
    "convert": "turn a public data set into one to train and measure on",
    "train": "train the generalist or the segmentor from a YAML",
    "evaluate": "score answers and masks on labelled pictures",
    "bench": "measure how fast it is, beside other tools",
    "doctor": "check this installation",
}
MENDABLE = 2
INTERRUPTED = 130
PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells report a reader that left early (`slidekick ... | head`)


class OneLineParser(argparse.ArgumentParser):
    """argparse, with mistakes told in one line in place of the whole usage."""

    def error(self, message: str) -> None:
        self.exit(MENDABLE, f"{one_line(f'{self.prog}: {message}; see {self.prog} --help')}\n")


class _Version(argparse.Action):
    def __call__(self, parser, *_) -> None:
        from importlib.metadata import version

        print(f"slidekick {version('slidekick')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (argparse itself exits for --help and mistakes)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without µ shows ? and the work is not lost
    try:
        parser, module = build_parser(arguments)
        args = parser.parse_args(arguments)
        if module is None:
            parser.print_help()
            return 0
        with Watch():
            code = module.run(args)
        sys.stdout.flush()
        return code
    except SlidekickError as error:
        print(one_line(f"slidekick: {error}"), file=sys.stderr)
        return MENDABLE
    except KeyboardInterrupt:
        print("\nslidekick: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet too
        return PIPE_CLOSED
    except Exception as error:
        from slidekick.data.files import refused

        memory = "memory was refused; close other programs, or ask for less at a time"
        told = memory if is_refused(error) else refused(error)
        if told is None:
            raise
        print(one_line(f"slidekick: {told}"), file=sys.stderr)
        return MENDABLE


def build_parser(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """The parser, with the arguments of the subcommand that `arguments` name, and that subcommand's module."""
    parser = OneLineParser(
        prog="slidekick",
        description="A pathology copilot that shows its evidence. Research use only. Not for diagnosis.",
        epilog="slidekick COMMAND --help tells more of each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and leave")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=OneLineParser)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            module = import_module(f"slidekick.apps.{name}")
            module.add_arguments(sub)
    return parser, module


def one_line(text: str) -> str:
    """`text` with line ends and control characters spelt out: file names may hold any, terminals obey some."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


if __name__ == "__main__":
    sys.exit(main())
