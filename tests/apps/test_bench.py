import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from slidekick.apps.bench import figures, smoke
from slidekick.apps.bench.smoke import Check, same_scale_concepts
from slidekick.data.errors import InputError
from slidekick.grounding.vocabulary import Concept, Vocabulary

FAST = Check("ours", "peer", 1.0, 20.0, 0.1, "")
SLOW = Check("ours", "peer", 3.0, 20.0, 0.1, "")


@pytest.mark.parametrize(("check", "code", "told"), [(FAST, 0, False), (SLOW, 1, True)])
def test_a_ratio_beyond_its_limit_is_named_and_exits_1(monkeypatch, capsys, check, code, told):
    monkeypatch.setattr(smoke, "start_up", lambda: FAST)
    monkeypatch.setattr(smoke, "segmenting", lambda: [check])
    assert smoke.main([]) == code
    assert ("TOO SLOW" in capsys.readouterr().out) is told
    assert smoke.main(["--json"]) == code
    facts = json.loads(capsys.readouterr().out)
    assert [found["held"] for found in facts["checks"]] == [True, not told]
    assert facts["checks"][1]["ratio"] == pytest.approx(check.ours_s / 20)
    assert {"python", "torch", "segment-anything"} <= set(facts["versions"])


def test_what_cannot_be_measured_is_one_line_and_exit_2(monkeypatch, capsys):
    def segmenting():
        raise InputError("weights: model.safetensors is missing")

    monkeypatch.setattr(smoke, "start_up", lambda: FAST)
    monkeypatch.setattr(smoke, "segmenting", segmenting)
    assert smoke.main([]) == 2
    assert capsys.readouterr().err == "slidekick: weights: model.safetensors is missing\n"


def test_the_two_concepts_are_looked_at_in_the_same_windows():
    def card(*scales: tuple[str, float]) -> Vocabulary:
        return Vocabulary([Concept(name, "object", (), mpp=mpp, zoom=1.0) for name, mpp in scales])

    assert same_scale_concepts(card(("gland", 1.0), ("nucleus", 0.35), ("lymphocyte", 0.35))) == (
        "nucleus",
        "lymphocyte",
        0.35,
    )
    with pytest.raises(InputError, match="no second concept"):
        same_scale_concepts(card(("nucleus", 0.35), ("gland", 1.0)))


def test_figures_are_measured_in_processes_of_their_own_and_told_together(monkeypatch, capsys):
    asked = []

    def run(command, **_):
        asked.append(command[-1])
        facts = {"load_s": 1.0, "first_s": 0.5, "warm_s": 0.25, "peak_mb": 1234.0}
        return SimpleNamespace(returncode=0, stdout=json.dumps(facts))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(figures, "installation_mb", lambda: 2000.0)
    assert figures.main([]) == 0
    text = capsys.readouterr().out
    assert asked == ["ask", "segment"]
    assert "warm 0.25 s (median of 5), peak memory 1,234 MB" in text
    assert "packages 2,000 MB installed" in text


def test_a_task_is_loaded_once_run_once_and_then_five_times(monkeypatch, capsys):
    done = []

    def load():
        done.append("load")
        return lambda: done.append("run")

    monkeypatch.setitem(figures.TASKS, "segment", load)
    assert figures.measure_here("segment") == 0
    assert done == ["load"] + ["run"] * 6
    facts = json.loads(capsys.readouterr().out)
    assert facts["peak_mb"] > 20
    assert set(facts) == {"load_s", "first_s", "warm_s", "peak_mb"}


def test_memory_that_was_held_is_in_the_peak():
    code = (
        "from slidekick.apps.bench.figures import peak_mb\nbefore = peak_mb()\n"
        "held = bytearray(b'x') * 300_000_000\nprint(peak_mb() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 250 < float(done.stdout) < 400


def test_the_installation_holds_at_least_torch():
    assert figures.installation_mb() > 100
