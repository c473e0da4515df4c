"""An evaluation as one self-contained page: figures with intervals, plots, and the worst cases as pictures.

Everything on it comes from the run's summary and rows; nothing is measured here. Plots need matplotlib (the `train`
extra).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from slidekick.data.pages import page_environment
from slidekick.data.statistics import brief
from slidekick.grounding.calibration import reliability
from slidekick.grounding.charts import bars_png, reliability_png
from slidekick.rl import scores
from slidekick.rl.evaluation.asking import ask_of
from slidekick.rl.evaluation.changes import NONE
from slidekick.rl.evaluation.questions import Question

TEMPLATES = Path(__file__).parent / "templates"
WORST = 24  # cases shown
CASE_PX = 240  # longest side of a case's picture
BARS = {  # family -> what its bars are: metric names that begin so, and the axis
    "classify": ("balanced_accuracy.", "balanced accuracy"),
    "vqa": ("accuracy.", "accuracy"),
    "detect": ("ap50", "AP50"),
    "tools": ("tool_choice.", "right tool or none"),
}


def figures_of(metrics: Mapping[str, object]) -> dict[str, dict]:
    """Flat metrics as {name: {"value", "low", "high", "n"}}, as `statistics.brief` and charts take them."""
    told = {}
    for name in metrics:
        if f"{name}_ci" in metrics:
            low, high = metrics[f"{name}_ci"] or (None, None)
            told[name] = {"value": metrics[name], "low": low, "high": high, "n": metrics[f"{name}_n"]}
    return told


def to_html(summary: Mapping, rows: Sequence[dict], questions: Mapping[str, Question]) -> str:
    """The page: no scripts, nothing fetched, pictures inside."""
    environment = page_environment(TEMPLATES)
    environment.filters["brief"] = brief
    asked = [row for row in rows if row["change"] == NONE]
    return environment.get_template("evaluation.html.jinja").render(
        summary=summary,
        figures=figures_of(summary["metrics"]),
        plots=[(title, _uri(png)) for title, png in _plots(summary, asked)],
        cases=[_case(row, questions[row["id"]]) for row in worst(asked)],
        total=len(asked),
        wrong=sum(row["right"] != 1 for row in asked),
    )


def worst(rows: Sequence[dict], most: int = WORST) -> list[dict]:
    """The rows that are worth least, the surest first among equals."""
    bad = [row for row in rows if row["right"] != 1]
    return sorted(bad, key=lambda row: (row["score"], -(row["confidence"] or 0), row["id"]))[:most]


def _case(row: dict, question: Question) -> dict:
    thumbnail = None
    if question.picture is not None:
        from PIL import Image

        picture = Image.fromarray(ask_of(question).roi().pixels)
        picture.thumbnail((CASE_PX, CASE_PX))
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        thumbnail = _uri(stream.getvalue())
    return {**row, "thumbnail": thumbnail}


def _plots(summary: Mapping, rows: Sequence[dict]) -> list[tuple[str, bytes]]:
    plots = []
    prefix, axis = BARS.get(summary["what"], ("", ""))
    figures = figures_of(summary["metrics"]).items()
    bars = {name.removeprefix(prefix): one for name, one in figures if prefix and name.startswith(prefix)}
    bars = {name or "all": one for name, one in bars.items() if one["value"] is not None}
    if bars:
        plots.append((axis.capitalize(), bars_png(bars, axis)))
    weighed = [row for row in rows if row["logits"] is not None]
    if weighed:
        sure = np.array([row["confidence"] for row in weighed])
        right = np.array([row["right"] for row in weighed])
        plots.append(("Reliability", reliability_png(reliability(sure, right > 0))))
        plots.append(("Risk against coverage", risk_coverage_png(sure, right)))
    counted = [row for row in rows if row["kind"] == "number" and row["said"] is not None]
    if summary["what"] == "count" and counted:
        plots.append(("Counts", counts_png(counted)))
    return plots


def risk_coverage_png(sure: np.ndarray, right: np.ndarray) -> bytes:
    """Share wrong among the answers given against the share given, surest first."""
    figure, axis = _axis()
    coverage, risk = scores.risk_coverage(sure, right)
    axis.plot(coverage, risk, color="#0072b2", linewidth=1.8)
    axis.axhline(1 - right.mean(), color="#888888", linewidth=1, linestyle="--")
    axis.set(xlabel="share of questions answered, surest first", ylabel="share wrong among them", xlim=(0, 1))
    axis.set_ylim(bottom=0)
    return _png(figure)


def counts_png(rows: Sequence[dict]) -> bytes:
    """Number said against number true, a point a question; logarithmic from 1 on."""
    figure, axis = _axis()
    truth, said = ([row[key] for row in rows] for key in ("truth", "said"))
    top = max(*truth, *said, 1) * 1.2
    axis.plot([0, top], [0, top], color="#888888", linewidth=1, linestyle="--")
    axis.plot(truth, said, "o", color="#0072b2", markersize=4, alpha=0.6)
    axis.set(xlabel="true number", ylabel="number said", xlim=(-0.5, top), ylim=(-0.5, top))
    axis.set_xscale("symlog")
    axis.set_yscale("symlog")
    return _png(figure)


def _axis():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
