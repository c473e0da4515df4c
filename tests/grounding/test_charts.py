import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.statistics import mean_figure
from slidekick.grounding import charts
from slidekick.grounding.calibration import PixelCalibration, reliability
from slidekick.grounding.charts import SERIES, bars_png, curves_png, reliability_png

LOG = [{"step": step, "minutes": 1.0, "loss": 2 / step, "mask": 1 / step, "rate": 5.0} for step in range(1, 60)]
WATCHED = [row | ({"val_dice": 0.5} if row["step"] % 10 == 0 else {}) for row in LOG]


def pixels_of(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB"))


def painted(pixels: np.ndarray, colour: str) -> int:
    """How many pixels are of that colour (#rrggbb)."""
    return int((pixels == np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)).all(axis=-1).sum())


def axes_of(monkeypatch, draw) -> list:
    """The axes of the figure that `draw` makes."""
    made = []
    real = charts._figure
    monkeypatch.setattr(charts, "_figure", lambda *size: made.append(real(*size)) or made[-1])
    draw()
    return made[0].axes


def test_losses_and_validation_stand_in_a_panel_each(monkeypatch):
    losses, watched = axes_of(monkeypatch, lambda: curves_png(WATCHED))
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "mask"]
    assert [text.get_text() for text in watched.get_legend().get_texts()] == ["val dice"]
    assert watched.get_ylim() == (0, 1)
    (line,) = watched.lines
    assert list(line.get_xdata()) == [10, 20, 30, 40, 50]


def test_a_log_without_validation_has_one_panel(monkeypatch):
    assert len(axes_of(monkeypatch, lambda: curves_png(LOG))) == 1


def test_few_points_are_drawn_as_they_are_and_many_with_their_mean(monkeypatch):
    (few,) = axes_of(monkeypatch, lambda: curves_png(LOG[:5]))
    assert [list(line.get_ydata()) for line in few.lines] == [[row[key] for row in LOG[:5]] for key in ("loss", "mask")]
    monkeypatch.undo()
    (many,) = axes_of(monkeypatch, lambda: curves_png(LOG))
    raw, smooth = many.lines[:2]
    assert list(raw.get_ydata()) == [row["loss"] for row in LOG]
    assert smooth.get_ydata()[30] == pytest.approx(np.mean([LOG[place]["loss"] for place in (29, 30, 31)]))
    assert raw.get_alpha() < 1


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(1, 50))
def test_a_running_mean_stays_within_its_values(values, span):
    mean = charts._running_mean(values, span)
    assert len(mean) == len(values)
    assert min(values) - 1e-9 <= mean.min() <= mean.max() <= max(values) + 1e-9


def test_what_is_no_number_leaves_a_gap_and_no_chart_is_made_of_nothing():
    rows = [{"step": 1, "loss": float("nan"), "note": "warm-up"}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": None}]
    assert pixels_of(curves_png(rows)).shape[1] == 960
    for empty in ([], [{"step": 1, "minutes": 0.1}], [{"step": 1, "loss": float("inf")}]):
        with pytest.raises(ValueError, match="nothing to draw"):
            curves_png(empty)


def test_bars_stand_highest_first_with_interval_value_and_number(monkeypatch):
    figures = {
        "nucleus": mean_figure([0.5, 0.7]),
        "gland": mean_figure([0.9, 1.0, 0.8]).to_dict(),
        "mitosis": mean_figure([]),
        "necrosis": {"value": 0.2, "low": None, "high": None, "n": 4},
    }
    (axis,) = axes_of(monkeypatch, lambda: bars_png(figures))
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["necrosis  (n = 4)", "nucleus  (n = 2)", "gland  (n = 3)"]  # from the bottom up
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([0.2, 0.6, 0.9])
    assert [list(line.get_xdata()) for line in axis.lines] == [pytest.approx([0.5, 0.7]), pytest.approx([0.8, 1.0])]
    assert [text.get_text() for text in axis.texts] == ["0.20", "0.60", "0.90"]
    assert axis.get_xlim() == (0, 1)


def test_bars_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no figure"):
        bars_png({"mitosis": mean_figure([])})


def test_a_reliability_diagram_draws_every_bin(monkeypatch):
    probability = np.array([0.1, 0.1, 0.5, 0.9])
    table = reliability(probability, np.array([False, True, True, True]), bins=5)
    upper, lower = axes_of(monkeypatch, lambda: reliability_png(table, "presence"))
    points = next(line for line in upper.lines if line.get_label().startswith("measured"))
    assert list(points.get_xdata()) == pytest.approx([0.1, 0.5, 0.9])
    assert list(points.get_ydata()) == [0.5, 1, 1]
    assert "ECE 0.350" in points.get_label()
    assert [bar.get_height() for bar in lower.patches] == [2, 1, 1]
    assert upper.get_title(loc="left") == "presence"


def test_tables_of_pixels_are_drawn_too():
    kept = PixelCalibration()
    kept.add(np.linspace(0, 1, 10_000).reshape(100, 100), np.linspace(0, 1, 10_000).reshape(100, 100) > 0.5)
    pixels = pixels_of(reliability_png(kept.table()))
    assert painted(pixels, SERIES[0]) > 100
    with pytest.raises(ValueError, match="no item"):
        reliability_png([])


def test_names_are_words_and_no_formulas(monkeypatch):
    named = {r"$\frac$ of cells": mean_figure([0.5]), "β-cell_2^a": mean_figure([0.4])}
    (axis,) = axes_of(monkeypatch, lambda: bars_png(named, title=r"$\x$"))
    assert [label.get_text() for label in axis.get_yticklabels()][1] == r"$\frac$ of cells  (n = 1)"


def test_the_same_numbers_give_the_same_bytes():
    assert curves_png(WATCHED) == curves_png(WATCHED)


def test_without_matplotlib_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"slidekick\[train\]"):
        curves_png(LOG)


def test_matplotlib_is_loaded_when_a_chart_is_drawn_and_pyplot_never():
    code = (
        "import sys; from slidekick.grounding.charts import curves_png; assert 'matplotlib' not in sys.modules;"
        "curves_png([{'step': 1, 'loss': 1.0}]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
