import json
import shutil

import pytest

from slidekick.apps import doctor
from slidekick.apps.cli import main


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A machine on which all is there, whatever this one lacks."""
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "weights", lambda: {"base": True, "mini": True, "segmentor": True})


def test_a_healthy_machine_passes_and_says_what_it_has(healthy, capsys):
    assert main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["problems"] == []
    assert said["versions"]["torch"]
    assert said["machine"]["cores"] >= 1
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("all is well\n")


def test_missing_weights_are_a_problem_and_an_unfetched_base_a_note(healthy, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "weights", lambda: {"base": False, "mini": True, "segmentor": False})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM: the trained weights of segmentor are not in the package; install Slidekick again" in out
    assert "note: the base weights are fetched on first use" in out
    assert "weights of mini" not in out


def test_weights_that_are_not_as_published_are_named(healthy, monkeypatch, tmp_path, capsys):
    for name, folder in doctor.weight_folders().items():
        assert doctor.changed_weights(folder) == [], (
            f"in {folder}: sha256sum $(git ls-files '*.safetensors') > SHA256SUMS"
        )
        shutil.copytree(folder, tmp_path / name)
    monkeypatch.setattr(
        doctor, "weight_folders", lambda: {"mini": tmp_path / "mini", "segmentor": tmp_path / "segmentor"}
    )
    with open(tmp_path / "mini" / "mini" / "tower.safetensors", "r+b") as file:
        file.seek(5000)
        file.write(b"other")
    (tmp_path / "mini" / "mini" / "stranger.safetensors").write_bytes(b"")
    (tmp_path / "segmentor" / "phrases.safetensors").unlink()
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "weights of mini are not as they were published: mini/stranger.safetensors, mini/tower.safetensors;" in out
    assert "weights of segmentor are not as they were published: phrases.safetensors;" in out


def test_a_package_that_does_not_import_is_named_with_the_reason(healthy, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "IMPORTED", ("numpy", "no_such_package"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM: no_such_package cannot be imported (No module named 'no_such_package')" in out


def test_a_cache_that_cannot_be_written_is_a_problem(healthy, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 1
    assert "or set SLIDEKICK_CACHE" in capsys.readouterr().out


def test_an_extra_that_is_not_installed_is_named_with_its_mend(healthy, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-package": "chat"})
    assert main(["doctor"]) == 0
    assert "no-such-package is not installed; pip install 'slidekick[chat]'" in capsys.readouterr().out
