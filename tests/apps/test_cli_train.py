import json
import sys
from types import ModuleType

import pytest

import slidekick.apps.train
from slidekick.apps.cli import main
from slidekick.data.errors import InputError

FIGURE = {"value": 0.81, "low": 0.7, "high": 0.9, "n": 12}
NONE = {"value": None, "low": None, "high": None, "n": 0}


@pytest.fixture
def trainers(monkeypatch):
    """Modules that stand in for training; what they were asked is noted, and they chatter on stdout as trl does."""
    asked = []

    def train(config, data, out, resume=False):
        print("{'loss': 0.5}")
        asked.append(("segmentor", config, data, out, resume))
        return {"loss": 0.25, "mask": 0.125}

    def finish(out, config, data):
        asked.append(("finish", config, data, out))
        return {"figures": {"nucleus": {"dice": FIGURE, "count_relative_error": NONE}}}

    def train_sft(config, data, out, resume=False):
        print("{'loss': 0.5}")
        asked.append(("sft", config, data, out, resume))
        out.mkdir(exist_ok=True)
        (out / "log.json").write_text(json.dumps([{"loss": 0.9, "step": 1}, {"loss": 0.4, "step": 2}]))
        return out / "adapter"

    for name, functions in (
        ("slidekick.grounding.train", {"train": train}),
        ("slidekick.grounding.finish", {"finish": finish}),
        ("slidekick.rl.sft", {"train_sft": train_sft}),
    ):
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("{}")
    return path


def test_the_segmentor_is_trained_then_finished_and_summed_up(trainers, config, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "segmentor", str(config), "--data", "sets", "--out", str(out), "--json"]) == 0
    (_, *trained, resume), (_, *finished) = trainers
    assert [str(path) for path in trained] == [str(path) for path in finished] == [str(config), "sets", str(out)]
    assert resume is False
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["weights"] == str(out)
    assert summary["log"]["loss"] == 0.25
    assert summary["figures"]["nucleus"]["dice"] == FIGURE
    assert "'loss'" in printed.err


def test_the_generalist_is_trained_and_its_last_loss_told(trainers, config, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "sft", str(config), "--data", "sets", "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["weights"] == str(out / "adapter")
    assert summary["log"] == {"loss": 0.4, "step": 2}


def test_for_people_figures_come_with_their_interval_and_empty_ones_are_left_out(trainers, config, tmp_path, capsys):
    assert main(["train", "segmentor", str(config), "--data", "sets", "--out", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "0.810 [0.700, 0.900] n = 12" in text
    assert "count_relative_error" not in text


def test_a_folder_with_a_run_is_gone_on_with_only_when_asked(trainers, config, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoint.pt").write_bytes(b"days of work")
    command = ["train", "segmentor", str(config), "--data", "sets", "--out", str(out)]
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert trainers == []
    assert main([*command, "--resume"]) == 0
    assert trainers[0][-1] is True


@pytest.mark.parametrize("package", ["trl", "datasets"])
def test_without_the_extra_the_mend_is_named_before_anything_is_done(
    trainers, config, tmp_path, capsys, monkeypatch, package
):
    find = slidekick.apps.train.find_spec
    monkeypatch.setattr(slidekick.apps.train, "find_spec", lambda name: None if name == package else find(name))
    assert main(["train", "sft", str(config), "--data", "sets", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"slidekick: {package} is not installed; pip install 'slidekick[train]' brings it"
    assert not (tmp_path / "run").exists()
    assert main(["train", "segmentor", str(config), "--data", "sets", "--out", str(tmp_path / "other")]) == 0


def test_an_error_in_training_is_one_line_and_exit_2(trainers, config, tmp_path, capsys, monkeypatch):
    def train(*_, **__):
        raise InputError("sets: no such file or folder")

    monkeypatch.setattr(sys.modules["slidekick.grounding.train"], "train", train)
    assert main(["train", "segmentor", str(config), "--data", "sets", "--out", str(tmp_path / "run"), "--json"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "router", "c.yaml"],
        ["train", "sft"],
        ["train", "sft", "c.yaml", "--out", "x"],
        ["train", "sft", "c.yaml", "--data", "x"],
        ["train", "segmentor", "nowhere.yaml", "--data", "x", "--out", "y"],
    ],
)
def test_a_command_that_cannot_be_meant_is_one_line_and_exit_2(slidekick, arguments):
    done = slidekick(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("what", ["segmentor", "sft"])
def test_broken_yaml_and_missing_data_are_told_in_one_line(slidekick, tmp_path, what):
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: {")
    done = slidekick("train", what, broken, "--data", tmp_path, "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "broken.yaml: cannot be read as YAML" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
