"""Growth of cost: what is in proportion is told from what grows faster, and drawn."""

from contextlib import ExitStack

import pytest
from PIL import Image

from slidekick.apps.bench import growth


@pytest.mark.parametrize(("power", "met"), [(0.5, True), (1.0, True), (1.1, True), (2.0, False)])
def test_the_exponent_of_the_last_step_is_told(power, met):
    axis = growth.AXES["concepts"]
    row = growth.row("concepts", axis, {size: 0.01 * size**power for size in axis.sizes})
    assert row.ours == pytest.approx(power)
    assert row.met is met


def test_pixels_grow_with_the_square_of_the_side():
    row = growth.row("pixels", growth.AXES["pixels"], {1024: 1.0, 2048: 4.0})
    assert row.ours == pytest.approx(1)


def test_a_fixed_cost_hides_no_growth():
    costs = {size: 1.0 + size**2 / 1e4 for size in (1_000, 10_000)}
    assert growth.row("objects", growth.AXES["objects"], costs).ours > 1.9


def test_sizes_take_turns_and_the_quickest_round_counts(monkeypatch):
    done = []
    axis = growth.Axis((1, 2), "things", "do", lambda size, stack: lambda: done.append(size))
    seconds = iter([3.0, 5.0, 2.0, 9.0])
    monkeypatch.setattr(growth, "seconds", lambda work: (work(), next(seconds))[1])
    assert growth.measured(axis, 2) == {1: 2.0, 2: 5.0}
    assert done == [1, 2, 1, 2, 1, 2]


def test_objects_are_measured_and_outlined(monkeypatch):
    with ExitStack() as stack:
        measured, outlined = growth.objects(100, stack)()
    assert measured.count == 100
    assert len(outlined["features"]) == 100


def test_all_axes_are_drawn(tmp_path):
    growth.plot(tmp_path / "growth.png", {name: dict.fromkeys(axis.sizes, 1.0) for name, axis in growth.AXES.items()})
    with Image.open(tmp_path / "growth.png") as picture:
        assert min(picture.size) > 500
