"""The killing of commands: what ends otherwise, what is torn and what goes on are told apart."""

import sys

import pytest

from slidekick.apps.bench import disturbing, faults

# Writes three numbers, a file each, a tenth of a second apart; what is there is not written anew.
COUNTING = """
import sys, time
from pathlib import Path
out = Path(sys.argv[1]); out.mkdir(exist_ok=True)
for number in range(3):
    place = out / f"{number}.json"
    if not place.is_file():
        time.sleep(0.1)
        WRITE
(out / "when.txt").write_text(str(time.time()))
"""
WHOLE = 'part = out / f"{number}.part"; part.write_text("[1]"); part.rename(place)'
TORN = 'place.write_text("["); time.sleep(0.3); place.write_text("[1]")'
OTHER = "place.write_text(str(list(out.iterdir()) and sys.argv[1].endswith('run-0') and 2 or 1))"


@pytest.fixture
def disturbed(tmp_path, monkeypatch):
    """Kills a command that writes so; what became of each run."""

    def kill(writing: str, runs: int, seed: int) -> list[faults.Killed]:
        code = COUNTING.replace("WRITE", writing)
        task = disturbing.Task(lambda _, out: [sys.executable, "-c", code, str(out)], lambda material, data: None)
        monkeypatch.setitem(disturbing.TASKS, "counting", task)
        return faults.disturbed("counting", tmp_path, runs, seed, None)

    return kill


def test_a_command_that_goes_on_ends_in_the_same_bytes(disturbed):
    found = disturbed(WHOLE, 3, 1)
    assert [one.wrong for one in found] == [()] * 3
    assert all(one.seconds for one in found)
    assert "kills in 3 runs, 0 ended otherwise" in faults.as_text(found)


def test_a_torn_file_is_told(disturbed):
    assert any("torn" in line for one in disturbed(TORN, 6, 1) for line in one.wrong)


def test_other_bytes_are_told(disturbed):
    (first,) = disturbed(OTHER, 1, 3)
    assert any("other bytes" in line for line in first.wrong)
    assert "ended otherwise" in faults.as_text([first])


def test_a_command_that_fails_by_itself_is_no_finding(tmp_path, monkeypatch, capsys):
    broken = disturbing.Task(lambda material, out: [sys.executable, "-c", "1 / 0"], lambda material, data: None)
    monkeypatch.setattr(disturbing, "TASKS", {"broken": broken})
    monkeypatch.setattr(faults, "TASKS", disturbing.TASKS)
    assert faults.main(["--n", "1"]) == 2
    assert "faults: broken: ends with 1 undisturbed" in capsys.readouterr().err


def test_all_that_a_command_started_is_killed_with_it(tmp_path):
    import subprocess
    import time

    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}, {str(tmp_path)!r}]).wait()"
    begun = time.monotonic()
    assert disturbing.run([sys.executable, "-c", code], 1.0).code is None
    assert time.monotonic() - begun < 10
    for _ in range(50):  # what was killed takes a moment to go
        if not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split():
            break
        time.sleep(0.1)
    else:
        pytest.fail("a child goes on")
