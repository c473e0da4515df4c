import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt

from slidekick.grounding.clicks import clicks_to, next_click
from slidekick.grounding.metrics import dice

MASKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=10).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def square(side: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """bool (side, side), True in each box of x0, y0, x1, y1."""
    mask = np.zeros((side, side), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


TARGET = square(40, (4, 4, 23, 23))


class Brush:
    """A session that gets a square of five pixels right around each click, and knows nothing of the rest."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, clicks) -> np.ndarray:
        self.asked.append(list(clicks))
        mask = np.zeros_like(TARGET)
        for x, y, _ in clicks:
            near = np.s_[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
            mask[near] = TARGET[near]
        return mask


def test_the_first_click_is_in_the_middle_of_the_target():
    assert next_click(np.zeros_like(TARGET), TARGET) == (13.5, 13.5, 1)


def test_the_next_click_is_in_the_middle_of_the_largest_error():
    drawn = square(40, (4, 4, 23, 20), (28, 28, 39, 39))  # a strip of 3 px is missed, a square of 11 px is false
    assert next_click(drawn, TARGET) == (33.5, 33.5, 0)
    missing = square(40, (4, 4, 10, 23), (36, 36, 39, 39))  # 13 px wide are missed, 3 px are false
    assert next_click(missing, TARGET) == (16.5, 10.5, 1)


def test_what_lies_beyond_the_picture_is_an_edge_too():
    corner = square(40, (0, 0, 11, 11))
    assert next_click(np.zeros_like(corner), corner) == (5.5, 5.5, 1)


def test_nothing_wrong_needs_no_click():
    assert next_click(TARGET, TARGET) is None
    dot = square(5, (2, 2, 3, 3))
    assert next_click(dot & False, dot, [(2.5, 2.5, 1)]) is None


@given(MASKS)
def test_a_click_is_on_an_error_as_deep_as_any_and_says_which(pair):
    drawn, target = pair
    click = next_click(drawn, target)
    if click is None:
        assert np.array_equal(drawn, target)
        return
    x, y, label = click
    row, column = int(y), int(x)
    assert target[row, column] == (label == 1)
    assert drawn[row, column] == (label == 0)
    depths = [
        distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] for error in (target & ~drawn, drawn & ~target)
    ]  # as RITM finds them, by another library
    assert depths[1 - label][row, column] == pytest.approx(max(depth.max() for depth in depths), rel=1e-5)


def test_a_session_that_draws_the_target_needs_one_click():
    asked = []
    done = clicks_to(TARGET, lambda clicks: asked.append(clicks) or TARGET)
    assert (done.needed, done.dice, asked) == (1, (1.0,), [[(13.5, 13.5, 1)]])


def test_clicks_are_given_all_together_each_time_and_counted_until_the_mask_is_good_enough():
    brush = Brush()
    done = clicks_to(TARGET, brush)
    assert 1 < done.needed == len(brush.asked) == len(done.dice) < 20
    assert brush.asked == [brush.asked[-1][:count] for count in range(1, done.needed + 1)]
    assert done.dice[-1] >= 0.85 > max(done.dice[:-1])
    assert done.dice == tuple(dice(Brush()(asked), TARGET) for asked in brush.asked)
    assert clicks_to(TARGET, Brush()) == done


def test_a_session_that_never_learns_costs_all_clicks():
    asked = []
    done = clicks_to(TARGET, lambda clicks: asked.append(clicks) or np.zeros_like(TARGET), most=7)
    assert (done.needed, done.dice) == (7, (0.0,) * 7)
    assert len(set(asked[-1])) == 7  # never twice the same place
    assert clicks_to(TARGET, lambda clicks: ~TARGET).needed == 20


def test_reaching_it_with_the_last_click_is_not_never():
    done = clicks_to(TARGET, lambda clicks: TARGET & (len(clicks) == 3), most=3)
    assert (done.needed, done.dice[-1]) == (3, 1.0)


def test_going_on_gives_one_value_for_each_click():
    brush = Brush()
    done = clicks_to(TARGET, brush, go_on=True)
    assert len(done.dice) == 20
    assert done.needed == clicks_to(TARGET, Brush()).needed < len(brush.asked)
    asked = []
    perfect = clicks_to(TARGET, lambda clicks: asked.append(clicks) or TARGET, go_on=True)
    assert (perfect.needed, perfect.dice, len(asked)) == (1, (1.0,) * 20, 1)


def test_clicks_come_on_top_of_what_was_drawn_before():
    half = square(40, (4, 4, 23, 14))
    asked = []
    done = clicks_to(TARGET, lambda clicks: asked.append(clicks) or TARGET, start=half)
    assert (done.needed, done.dice, asked) == (1, (1.0,), [[next_click(half, TARGET)]])
    asked.clear()
    good = clicks_to(TARGET, asked.append, start=TARGET)
    assert (good.needed, good.dice, asked) == (0, (), [])
    gone_on = clicks_to(TARGET, asked.append, start=TARGET, go_on=True, most=3)
    assert (gone_on.needed, gone_on.dice, asked) == (0, (1.0,) * 3, [])
    with pytest.raises(ValueError, match="differ"):
        clicks_to(TARGET, lambda clicks: TARGET, start=half[:20])


def test_a_target_without_a_pixel_is_refused():
    with pytest.raises(ValueError, match="empty"):
        clicks_to(np.zeros((5, 5), bool), lambda clicks: np.zeros((5, 5), bool))
