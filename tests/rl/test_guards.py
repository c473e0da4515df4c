"""Guards stop a run for what they are for, say why in one line, and leave a healthy one alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.data.errors import InputError
from slidekick.rl.guards import GuardCallback, Guards, reason

GUARDS = Guards(window=4, warmup=4, parsed=0.6)
HEALTHY = {
    "entropy": 0.5, "reward/all": 0.4, "reward/a": 0.4, "reward/b": 0.4, "distinct": 0.6,
    "length/a": 4.0, "length/b": 20.0, "complete": 1.0, "kl": 0.02, "parsed": 0.8,
}  # fmt: skip


def log(steps: int, last: int = 0, **changed) -> list[dict]:
    """A healthy log, of which the last steps are changed."""
    return [HEALTHY | (changed if step >= steps - last else {}) for step in range(steps)]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"entropy": 0.05}, "entropy fell from 0.500 to 0.050"),
        ({"reward/a": 0.1, "reward/b": 0.2}, "rewards fell by 0.250 below what each task had earned"),
        ({"distinct": 0.125}, "only 12% of a group's answers differ"),
        ({"length/a": 12.0, "length/b": 60.0}, "answers became 3 times as long as each task's"),
        ({"length/a": 1.0, "length/b": 5.0}, "answers became 0.25 times as long"),
        ({"complete": 0.7}, "30% of the answers were cut at the length limit"),
        ({"kl": 0.6}, "KL to the reference is 0.600 nats a token"),
        ({"parsed": 0.5}, "50% of the answers can be read"),
    ],
)
def test_each_guard_fires_for_its_own_reason(changed, told):
    assert told in reason(log(20, 4, **changed), GUARDS)
    assert "\n" not in reason(log(20, 4, **changed), GUARDS)
    assert reason(log(20, 1, **changed), GUARDS) is None or "distinct" in changed  # one odd step stops nothing
    assert reason(log(7, 4, **changed), GUARDS) is None  # nor do the first ones


@given(
    st.lists(
        st.fixed_dictionaries({
            "entropy": st.floats(0.4, 0.6), "reward/a": st.floats(0.35, 0.45), "distinct": st.floats(0.4, 1),
            "length/a": st.floats(15, 25), "complete": st.floats(0.9, 1), "kl": st.floats(0, 0.2),
            "parsed": st.floats(0.7, 1),
        }),
        max_size=40,
    )
)  # fmt: skip
def test_a_run_that_only_wavers_goes_on(steps):
    assert reason(steps, GUARDS) is None


def test_figures_that_are_not_logged_stop_nothing():
    assert reason([{"reward/a": 0.4}] * 20, GUARDS) is None
    assert reason([{**HEALTHY, "kl": None}] * 20, GUARDS) is None


def test_harder_tasks_that_come_later_are_no_fall_and_each_tasks_own_fall_is():
    easy, hard = HEALTHY | {"reward/all": 0.9, "reward/a": 0.9}, HEALTHY | {"reward/all": 0.2, "reward/b": 0.2}
    del easy["reward/b"], hard["reward/a"]
    assert reason([easy, easy, hard] * 5 + [hard] * 8, GUARDS) is None
    assert "rewards fell by 0.2" in reason([easy, hard] * 8 + [easy | {"reward/a": 0.65}] * 4, GUARDS)
    assert reason([hard] * 16 + [easy] * 4, GUARDS) is None, "a task that was not asked before"


def test_longer_tasks_that_come_later_are_no_drift():
    short, long = dict(HEALTHY), dict(HEALTHY)
    del short["length/b"], long["length/a"]
    assert reason([short, short, long] * 5 + [long] * 8, GUARDS) is None
    assert reason([short] * 16 + [long] * 4, GUARDS) is None, "a task that was not asked before"
    assert "answers became 3 times" in reason([short, long] * 8 + [short | {"length/a": 12.0}] * 4, GUARDS)
    assert reason([short] * 16 + [short | {"length/a": 0.0}] * 4, GUARDS) is None, "emptiness is told by what is read"


def test_a_slow_fall_is_found():
    falling = [HEALTHY | {"reward/a": 0.9 - 0.03 * step, "reward/b": 0.9 - 0.03 * step} for step in range(20)]
    assert "rewards fell" in reason(falling, GUARDS)


def test_the_callback_stops_and_names_the_checkpoint_from_before(tmp_path):
    callback = GuardCallback(GUARDS)
    control = SimpleNamespace(should_training_stop=False)
    for steps, stopped in ((19, False), (20, True)):
        state = SimpleNamespace(log_history=log(steps, max(0, steps - 16), kl=0.6), global_step=steps)
        callback.on_log(None, state, control, {})
        assert control.should_training_stop is stopped
    for number in (5, 10, 15, 20):
        (tmp_path / f"checkpoint-{number}").mkdir()
    kept = callback.last_good(tmp_path)
    assert kept.name == "checkpoint-15"
    told = callback.told(kept)
    assert told["step"] == 20
    assert told["stopped"].startswith("stopped at step 20: KL to the reference is 0.600")
    assert told["stopped"].endswith("what is written is checkpoint-15")
    assert callback.last_good(tmp_path / "none") is None
    assert "nothing was learnt" in callback.told(None)["stopped"]


@pytest.mark.parametrize(
    "section", [{"kl": "much"}, {"window": 0}, {"window": 1.5}, {"entropy": -1}, {"kl": True}, {"kll": 1}]
)
def test_thresholds_that_are_none_are_told(section):
    with pytest.raises(InputError, match=r"run.yaml: guards") as caught:
        Guards.read(section, Path("run.yaml"))
    assert next(iter(section)) in str(caught.value)
