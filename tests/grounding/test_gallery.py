import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFont

from slidekick.data.errors import OutputError
from slidekick.grounding.gallery import (
    DRAWN,
    FAINT,
    TILE,
    TRUTH,
    caption,
    contact_sheet,
    fitted,
    panel,
    png_bytes,
    worst_and_best,
)

GREY = 120


def row(dice: float, picture: str, there: bool = True, concept: str = "gland") -> dict:
    return {
        "concept": concept,
        "set": "painted",
        "item": f"painted/{picture}",
        "dice": dice,
        "presence": 0.9,
        "there": there,
    }


def box(side: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def render(row: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full((80, 80, 3), GREY, np.uint8), box(80, 10, 10, 50, 50), box(80, 20, 20, 60, 60)


def holds(pixels: np.ndarray, colour) -> int:
    """How many pixels are exactly of that colour."""
    return int((pixels == np.array(colour)).all(axis=-1).sum())


def opened(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_worst_and_the_best_are_shown_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("slidekick.grounding.gallery.SHOWN", 2)
    rows = [row(score, f"p{index}") for index, score in enumerate([0.5, 0.1, 0.9, 0.3, 0.7])]
    shown = []
    paths = worst_and_best(rows, lambda row: shown.append(row["dice"]) or render(row), tmp_path)
    assert [path.name for path in paths] == ["worst.png", "best.png"]
    assert shown == [0.1, 0.3, 0.9, 0.7]
    assert all(Image.open(path).format == "PNG" for path in paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.png", "worst.png"]


def test_pictures_without_the_concept_are_not_compared(tmp_path):
    shown = []
    rows = [row(0.0, "false-alarm", there=False), row(1.0, "left-alone", there=False), row(0.4, "real")]
    worst_and_best(rows, lambda row: shown.append(row["item"]) or render(row), tmp_path)
    assert shown == ["painted/real"] * 2
    assert worst_and_best(rows[:2], render, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_equal_scores_come_in_one_order_whatever_the_rows_were_in(tmp_path):
    rows = [row(0.5, name, concept=concept) for name in "bca" for concept in ("nucleus", "gland")]
    orders = []
    for given_rows in (rows, rows[::-1]):
        shown = []
        worst_and_best(
            given_rows, lambda row, shown=shown: shown.append((row["item"], row["concept"])) or render(row), tmp_path
        )
        orders.append(shown)
    assert orders[0] == orders[1]
    assert orders[0][:2] == [("painted/a", "gland"), ("painted/a", "nucleus")]


def test_a_place_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        worst_and_best([row(0.5, "a")], render, tmp_path / "taken")


def test_a_panel_is_the_picture_and_the_picture_with_both_outlines():
    pixels, truth, drawn = render({})
    plain, marked = panel(pixels, truth, drawn)
    assert plain.shape == marked.shape == (TILE, TILE, 3)
    assert (plain == GREY).all()
    assert holds(marked, TRUTH) > 100
    assert holds(marked, DRAWN) > 100
    changed = (marked != GREY).any(axis=-1)
    scale = TILE / 80
    ys, xs = np.nonzero(changed)
    assert (ys.min(), xs.min()) == (round(10 * scale), round(10 * scale))
    assert (ys.max(), xs.max()) == (round(60 * scale) - 1, round(60 * scale) - 1)
    assert not changed[int(35 * scale), int(35 * scale)]  # the inside stays readable


def test_the_true_outline_shows_where_the_drawn_one_lies_on_it():
    pixels, truth, _ = render({})
    marked = panel(pixels, truth, truth)[1]
    assert holds(marked, TRUTH) > 100
    assert holds(marked, DRAWN) > 100


def test_objects_that_touch_are_outlined_one_by_one():
    ids = np.zeros((80, 80), np.int32)
    ids[20:60, 20:40], ids[20:60, 40:60] = 1, 2
    pixels = np.full((80, 80, 3), GREY, np.uint8)
    apart, together = (holds(panel(pixels, labels, labels & 0)[1], TRUTH) for labels in (ids, (ids > 0).astype(int)))
    assert apart > together * 1.2


@settings(deadline=None, max_examples=40)
@given(
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=60),
    st.integers(0, 2**24 - 1),
    st.booleans(),
)
def test_any_shape_is_fitted_in_whole(shape, top_id, as_mask):
    labels = np.full(shape, top_id, np.int32)
    labels = labels > 0 if as_mask else labels
    plain, marked = panel(np.full((*shape, 3), GREY, np.uint8), labels, labels)
    assert plain.shape == (TILE, TILE, 3)
    sides = [side * TILE / max(shape) for side in shape]
    assert holds(plain, (GREY,) * 3) == pytest.approx(max(1, sides[0]) * max(1, sides[1]), rel=0.15, abs=TILE)
    assert holds(plain, (GREY,) * 3) + holds(plain, FAINT) == TILE * TILE
    assert np.array_equal(plain, marked)  # the picture's own border is no outline


def test_the_sheet_says_what_the_colours_mean_and_grows_by_rows():
    pixels, truth, drawn = render({})
    empty = contact_sheet([], "nothing")
    one, two, three = (
        contact_sheet([(caption(row(0.5, "a")), pixels, truth, drawn)] * count, "some") for count in (1, 2, 3)
    )
    assert one.shape == two.shape
    assert one.shape[1] == three.shape[1]
    assert three.shape[0] - two.shape[0] > TILE
    for colour in (TRUTH, DRAWN):
        assert holds(empty, colour) > 50
    assert holds(two, TRUTH) - holds(empty, TRUTH) == 2 * (holds(one, TRUTH) - holds(empty, TRUTH))


def test_captions_say_concept_dice_presence_set_and_picture():
    assert caption(row(0.12345, "p7")) == ("gland   Dice 0.123   presence 0.90", "painted/p7")


@given(st.text(max_size=300), st.integers(100, 800))
def test_text_is_cut_to_its_room(text, width):
    font = ImageFont.load_default(20)
    shown = fitted(text, font, width)
    assert font.getlength(shown) <= width
    plain = text.encode("ascii", "replace").decode()
    assert shown == plain or (font.getlength(plain) > width and "..." in shown)
    if shown != plain:
        assert plain.startswith(shown.split("...")[0])


def test_a_png_holds_the_pixels_it_was_given():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(pixels)))), pixels)
