"""Where a training that was cut goes on."""

import shutil
from types import SimpleNamespace

import pytest

from slidekick.data.errors import OutputError
from slidekick.rl.resuming import CHECKPOINTS, go_through, last_whole


def test_a_run_goes_on_at_its_newest_whole_checkpoint(tmp_path):
    assert last_whole(tmp_path) is None
    for step in (9, 10, 100):
        (tmp_path / CHECKPOINTS / f"checkpoint-{step}").mkdir(parents=True)
    assert last_whole(tmp_path) is None
    for step in (9, 10):
        (tmp_path / CHECKPOINTS / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_whole(tmp_path) == str(tmp_path / CHECKPOINTS / "checkpoint-10")


def test_a_full_disk_is_one_line_and_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    said = ["PytorchStreamWriter failed writing file data/0: file write failed"]

    def train(resume_from_checkpoint):
        raise RuntimeError(said[0])

    trainer = SimpleNamespace(train=train)
    with pytest.raises(RuntimeError, match="PytorchStreamWriter"):
        go_through(trainer, tmp_path, resume=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(OutputError, match="no space left"):
        go_through(trainer, tmp_path, resume=False)
    monkeypatch.undo()
    said[0] = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OutputError, match="no space left"):
        go_through(trainer, tmp_path, resume=False)
