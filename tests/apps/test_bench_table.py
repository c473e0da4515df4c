"""`slidekick bench`: areas measured in their own processes, one table, and the history."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from slidekick.apps import bench
from slidekick.apps.bench.table import Row, as_text
from slidekick.apps.cli import main

GOOD = Row("smoke", "ours", "s", 1.0, "peer", 20.0, most=0.1)
BAD = Row("smoke", "ours", "s", 3.0, "peer", 20.0, most=0.1)


@pytest.fixture
def areas(monkeypatch):
    """What the modules print, by name; the commands that were run."""
    told, asked = {}, []

    def run(command, **_):
        asked.append(command)
        rows = told.get(command[2].rpartition(".")[2])
        if rows is None:
            return SimpleNamespace(returncode=2, stdout="")
        facts = {"rows": [row.to_dict() for row in rows], "versions": {"numpy": "2"}, "machine": "m"}
        return SimpleNamespace(returncode=0, stdout=json.dumps(facts))

    monkeypatch.setattr(subprocess, "run", run)
    return SimpleNamespace(told=told, asked=asked)


def test_rows_tell_ratio_goal_best_and_verdict():
    rows = [
        Row("memory", "read", "MB", 1100.0, "small", 1000.0, most=1.05),
        Row("tiles", "t", "/s", 9.0, "p", 3.0, best=12.0),
    ]
    facts = {
        "rows": [row.to_dict() for row in rows],
        "missing": ["p: gone"],
        "versions": {"numpy": "2"},
        "machine": "m",
    }
    first, second, third, *rest = as_text(facts).splitlines()
    assert first.split() == ["what", "ours", "against", "ratio", "goal", "at", "best"]
    assert second.split() == ["read", "1,100", "MB", "small", "1,000", "1.1", "≤", "1.05", "NOT", "MET"]
    assert third.split() == ["t", "9", "/s", "p", "3", "3", "12"]
    assert rest == ["not measured: p: gone", "numpy 2", "m"]


def test_all_areas_stand_in_one_table(areas, capsys):
    areas.told |= {"smoke": [GOOD], "decode": [Row("writing", "a token a step", "tokens/s", 9.0, "llama.cpp", 6.0)]}
    assert main(["bench", "smoke", "writing", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(row["task"], row["ratio"]) for row in facts["rows"]] == [("smoke", 0.05), ("writing", 1.5)]
    assert facts["versions"] == {"numpy": "2"}
    assert [command[2] for command in areas.asked] == ["slidekick.apps.bench.smoke", "slidekick.apps.bench.decode"]


def test_a_ratio_of_the_smoke_test_beyond_its_limit_is_an_error_and_one_elsewhere_is_told(areas, capsys):
    areas.told |= {"smoke": [BAD], "figures": [BAD]}
    assert main(["bench", "smoke"]) == 1
    assert "NOT MET" in capsys.readouterr().out
    assert main(["bench", "answers"]) == 0
    assert "NOT MET" in capsys.readouterr().out


def test_an_area_that_cannot_be_measured_leaves_the_others(areas, capsys):
    areas.told["smoke"] = [GOOD]
    assert main(["bench", "smoke", "page"]) == 2
    assert "not measured: page: see above" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "said"), [
    (["speed"], "speed: no such area; use some of smoke, answers"),
    (["rollouts"], "rollouts: give --data"),
    (["--record", "none.md"], "none.md: no file with a line “## History”"),
])  # fmt: skip
def test_what_is_given_wrongly_is_told_before_anything_is_measured(areas, capsys, given, said):
    assert main(["bench", *given]) == 2
    assert said in capsys.readouterr().err
    assert areas.asked == []


def test_the_history_gets_a_line_an_area_with_the_newest_first(areas, tmp_path, capsys):
    path = tmp_path / "benchmarks.md"
    path.write_text("# Benchmarks\n\n## History\n\n- 2020-01-01, 0.0.1, smoke: old\n")
    areas.told["smoke"] = [GOOD]
    assert main(["bench", "smoke", "--record", str(path)]) == 0
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# Benchmarks", "", "## History"]
    assert lines[4].endswith(", 0.1.0, smoke: ours / peer 0.05")
    assert lines[5] == "- 2020-01-01, 0.0.1, smoke: old"


def test_every_area_is_a_module_that_prints_rows():
    from importlib import import_module

    for module, _ in bench.AREAS.values():
        assert callable(import_module(f"slidekick.apps.bench.{module}").main)
    assert set(bench.USUAL) <= set(bench.AREAS)
