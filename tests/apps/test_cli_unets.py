import json

import pytest

import slidekick.grounding.unet_training
from slidekick.apps.cli import main

ABOUT = {"concepts": {"gland": {"kind": "object", "zoom": 0.6}}, "minutes": 4, "steps": 123456, "seed": 7, "threads": 2}


@pytest.fixture
def trained(monkeypatch):
    """Stands in for training; what it was asked is noted."""
    asked = []

    def train_unets(config, data, out, minutes):
        asked.append((config, data, out, minutes))
        return {"glas": ABOUT, "nuclei": {**ABOUT, "minutes": 0.5}}

    monkeypatch.setattr(slidekick.grounding.unet_training, "load_unet_config", lambda path: path.name)
    monkeypatch.setattr(slidekick.grounding.unet_training, "train_unets", train_unets)
    return asked


@pytest.fixture
def command(tmp_path):
    (tmp_path / "unet.yaml").write_text("{}")
    return ["train", "unets", str(tmp_path / "unet.yaml"), "--data", "sets", "--out", str(tmp_path / "run")]


def test_each_set_has_its_line(trained, command, capsys):
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["glas", "nuclei"]
    assert lines[1].endswith("123456 steps in 4 min: gland")
    assert lines[2].endswith("in 0.5 min: gland")
    ((config, data, out, minutes),) = trained
    assert (config, str(data), str(out), minutes) == ("unet.yaml", "sets", command[-1], None)


def test_the_minutes_may_be_others_than_the_yaml_has(trained, command, capsys):
    assert main([*command, "--minutes", "1.5", "--json"]) == 0
    assert trained[0][-1] == 1.5
    assert json.loads(capsys.readouterr().out)["sets"]["glas"] == ABOUT


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_are_none_are_one_line_and_exit_2(trained, command, capsys, minutes):
    assert main([*command, f"--minutes={minutes}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--minutes is" in line
    assert trained == []


def test_a_folder_with_a_run_is_gone_on_with_only_when_asked(trained, command, tmp_path, capsys):
    (tmp_path / "run" / "glas").mkdir(parents=True)
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert trained == []
    assert main([*command, "--resume"]) == 0
