"""Mishaps: what ends with a word and goes on is told from what falls over, hangs or ends otherwise."""

import sys

import pytest

from slidekick.apps.bench import disturbing, mishaps

# Writes ten files of what a slide holds, and says in one line what went wrong; RAW lets errors through.
WRITING = """
import sys, time
from pathlib import Path
from slidekick.data.errors import SlidekickError
from slidekick.data.files import write_atomic
try:
    for number in range(10):
        if not (file := Path(sys.argv[2]) / f"{number}.json").is_file():
            write_atomic(file, (Path(sys.argv[1]) / "a.svs").read_bytes())
        time.sleep(0.1)
except (SlidekickError, OSError) as error:
    if RAW:
        raise
    print(f"slidekick: {error}", file=sys.stderr)
    raise SystemExit(2)
"""
OF_PLACES = ["disk-full", "no-rights", "slide-gone"]


@pytest.fixture
def befallen(tmp_path, monkeypatch):
    """What became of a command that meets mishaps; raw: it lets errors through."""

    def meet(names: list[str], raw: bool) -> list[mishaps.Met]:
        code = WRITING.replace("RAW", str(raw))
        prepare = lambda material, data: (material / "a.svs").write_bytes(b'"' + 200_000 * b"x" + b'"')  # noqa: E731
        command = lambda material, out: [sys.executable, "-c", code, str(material), str(out)]  # noqa: E731
        monkeypatch.setitem(disturbing.TASKS, "writing", disturbing.Task(command, prepare))
        return mishaps.befallen("writing", tmp_path, names, 1, None)

    return meet


def test_what_ends_with_a_word_and_goes_on_is_as_it_should_be(befallen):
    met = befallen(OF_PLACES, raw=False)
    assert met, "no mishap can be made here"
    assert [one.wrong for one in met] == [()] * len(met)
    assert {one.code for one in met} == {2}
    assert all(one.said.startswith("slidekick: ") for one in met)


def test_a_traceback_is_told(befallen):
    met = befallen(OF_PLACES, raw=True)
    assert met, "no mishap can be made here"
    assert all(one.wrong[0].startswith("a traceback: ") for one in met)


def test_a_clock_set_back_changes_nothing(befallen):
    (met,) = befallen(["clock-back"], raw=False)
    assert (met.code, met.wrong) == (0, ())


@pytest.mark.parametrize(
    ("ended", "odd"),
    [
        (disturbing.Ended(None, ""), "did not end"),
        (disturbing.Ended(-11, ""), "ended with -11"),
        (disturbing.Ended(2, "no word of ours"), "no word of why"),
        (disturbing.Ended(2, ""), "no word of why"),
    ],
)
def test_hangs_crashes_and_silence_are_odd(ended, odd):
    (line,) = mishaps._odd(ended)
    assert line.startswith(odd)
