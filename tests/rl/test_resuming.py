"""Where a training that was cut goes on."""

from slidekick.rl.resuming import CHECKPOINTS, last_whole


def test_a_run_goes_on_at_its_newest_whole_checkpoint(tmp_path):
    assert last_whole(tmp_path) is None
    for step in (9, 10, 100):
        (tmp_path / CHECKPOINTS / f"checkpoint-{step}").mkdir(parents=True)
    assert last_whole(tmp_path) is None
    for step in (9, 10):
        (tmp_path / CHECKPOINTS / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_whole(tmp_path) == str(tmp_path / CHECKPOINTS / "checkpoint-10")
