"""The killing of commands: what ends otherwise, what is torn and what goes on are told apart."""

import sys

from slidekick.apps.bench import faults

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


def task(writing: str) -> faults.Task:
    code = COUNTING.replace("WRITE", writing)
    return faults.Task(lambda material, out: [sys.executable, "-c", code, str(out)], lambda material, data: None)


def test_a_command_that_goes_on_ends_in_the_same_bytes(tmp_path):
    found = faults.disturbed("counting", task(WHOLE), tmp_path, 3, 1, None)
    assert [one.wrong for one in found] == [()] * 3
    assert all(one.seconds for one in found)
    assert "kills in 3 runs, 0 ended otherwise" in faults.as_text(found)


def test_a_torn_file_and_other_bytes_are_told(tmp_path):
    (tmp_path / "torn").mkdir()
    found = faults.disturbed("counting", task(TORN), tmp_path / "torn", 6, 1, None)
    assert any("torn" in line for one in found for line in one.wrong)
    (tmp_path / "other").mkdir()
    (first, *_) = faults.disturbed("counting", task(OTHER), tmp_path / "other", 1, 3, None)
    assert any("other bytes" in line for line in first.wrong)
    assert "ended otherwise" in faults.as_text([first])


def test_a_command_that_fails_by_itself_is_no_finding(tmp_path, monkeypatch, capsys):
    broken = faults.Task(lambda material, out: [sys.executable, "-c", "1 / 0"], lambda material, data: None)
    monkeypatch.setattr(faults, "TASKS", {"broken": broken})
    assert faults.main(["--n", "1"]) == 2
    assert "faults: broken: ends with 1 undisturbed" in capsys.readouterr().err


def test_all_that_a_command_started_is_killed_with_it(tmp_path):
    import subprocess
    import time

    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}, {str(tmp_path)!r}]).wait()"
    begun = time.monotonic()
    assert faults.run([sys.executable, "-c", code], 1.0) is None
    assert time.monotonic() - begun < 10
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    assert left == []
