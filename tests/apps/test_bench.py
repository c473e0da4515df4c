import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import slidekick.grounding
from slidekick.apps.bench import figures, smoke, training
from slidekick.apps.bench.table import Row
from slidekick.data.errors import InputError

FAST = Row("smoke", "ours", "s", 1.0, "peer", 20.0, most=0.1)
SLOW = Row("smoke", "ours", "s", 3.0, "peer", 20.0, most=0.1)


@pytest.mark.parametrize(("check", "code", "told"), [(FAST, 0, False), (SLOW, 1, True)])
def test_a_ratio_beyond_its_limit_is_named_and_exits_1(monkeypatch, capsys, check, code, told):
    monkeypatch.setattr(smoke, "start_up", lambda: FAST)
    monkeypatch.setattr(smoke, "segmenting", lambda: [check])
    assert smoke.main([]) == code
    assert ("NOT MET" in capsys.readouterr().out) is told
    assert smoke.main(["--json"]) == code
    facts = json.loads(capsys.readouterr().out)
    assert [row["met"] for row in facts["rows"]] == [True, not told]
    assert facts["rows"][1]["ratio"] == pytest.approx(check.ours / 20)
    assert {"python", "torch", "segment-anything"} <= set(facts["versions"])


def test_what_cannot_be_measured_is_one_line_and_exit_2(monkeypatch, capsys):
    def segmenting():
        raise InputError("weights: model.safetensors is missing")

    monkeypatch.setattr(smoke, "start_up", lambda: FAST)
    monkeypatch.setattr(smoke, "segmenting", segmenting)
    assert smoke.main([]) == 2
    assert capsys.readouterr().err == "slidekick: weights: model.safetensors is missing\n"


class Looker:
    """Notes what it is asked, and whether the picture was forgotten before."""

    def __init__(self) -> None:
        self.asked, self.new = [], True

    def forget(self) -> None:
        self.new = True

    def segment(self, image, concepts, *, mpp=None):
        self.asked.append((len(concepts), self.new, image.shape, mpp))
        self.new = False


def test_five_concepts_are_held_against_one_against_a_picture_seen_before_and_against_sam(monkeypatch):
    looker = Looker()
    monkeypatch.setattr(slidekick.grounding, "Segmentor", SimpleNamespace(from_pretrained=lambda: looker))
    monkeypatch.setattr(smoke, "demo_picture", lambda side: np.zeros((side, side, 3), np.uint8))
    monkeypatch.setattr(smoke, "sam_seconds", lambda: 34.0)
    ticks = iter(range(1000))
    monkeypatch.setattr(smoke.time, "perf_counter", lambda: float(next(ticks)))
    sam, single, again = smoke.segmenting()
    assert [(number, new) for number, new, *_ in looker.asked] == [
        (5, True),
        *[(5, True), (5, False), (1, True)] * 5,
    ]
    assert {asked[2:] for asked in looker.asked} == {((1024, 1024, 3), (smoke.MPP, smoke.MPP))}
    assert (sam.ours, sam.theirs) == (1.0, 34.0)
    assert sam.met
    assert again.theirs == single.ours == 1.0
    assert not again.met, "it must cost less than a new picture"


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
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "ask, 512 px, from cold 1.5 s goal 3 0.5 ≤ 1 met" in rows
    assert "segment 5 concepts, 1024 px, peak memory 1,234 MB goal 1,000 1.23 ≤ 1 NOT MET" in rows
    assert "packages 2,000 MB goal 7,500 0.267 ≤ 1 met" in rows


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


def test_two_training_loops_are_run_in_turns_and_told_beside_each_other(monkeypatch, capsys):
    asked = []
    facts = {
        "ours": {"samples_s": 3.0, "samples_cpu_s": 2.0, "peak_mb": 1500.0, "prepare_s": 4.0, "batch": 16},
        "trl": {"samples_s": 2.0, "samples_cpu_s": 1.0, "peak_mb": 3000.0, "prepare_s": 0.0, "batch": 16},
    }

    def run(command, **_):
        asked.append(command[-1])
        return SimpleNamespace(returncode=0, stdout="{'loss': 0.5}\n" + json.dumps(facts[command[-1]]))

    monkeypatch.setattr(subprocess, "run", run)
    assert training.main(["--json"]) == 0
    assert asked == ["ours", "trl"] * 2
    told = json.loads(capsys.readouterr().out)
    assert told["ratios"] == {"samples_s": 1.5, "samples_cpu_s": 2.0, "peak_mb": 0.5}
    assert training.main([]) == 0
    assert "1.50 x samples a second, 2.00 x a processor second, 0.50 x memory" in capsys.readouterr().out


def test_the_first_step_does_not_count(monkeypatch):
    clock = iter([10.0, 11.0, 13.0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(training.time, "process_time", iter([5.0, 5.5, 6.5]).__next__)

    class Trainer:
        def add_callback(self, callback):
            self.callback = callback

        def train(self):
            for _ in range(3):
                self.callback.on_step_end(None, None, None)

    assert training.paces(Trainer(), batch=6) == {"samples_s": 4.0, "samples_cpu_s": 8.0}


def test_both_loops_are_shown_the_same_words(tmp_path):
    from slidekick.rl.instructions.turns import text_of

    made = training.conversations(tmp_path, 6)
    assert len({one.images for one in made}) == 6
    for one in made:
        plain = training.as_words(one.messages)
        assert [message["content"] for message in plain] == [text_of(message) for message in one.messages]
    lora, plan = training.settings()
    assert plan["max_steps"] == training.STEPS
    assert "target_modules" in lora
