import json
import math

import numpy as np
import pytest
from PIL import Image

import slidekick.apps.evaluate
import slidekick.grounding.segmentor
from slidekick.apps.cli import main
from slidekick.copilot import Copilot
from slidekick.copilot.turn import Turn
from slidekick.grounding.finding import Finding
from slidekick.grounding.vocabulary import Concept, Vocabulary

SIDE = 48


class Bright:
    """Stands in for the segmentor: finds every named concept where the picture is bright."""

    vocabulary = Vocabulary(
        [
            Concept("nucleus", "object", (), (0.25, 0.4), 1.0, level="cell", sets=("cells",)),
            Concept("tumour", "region", (), (0.8, 1.2), 0.6, level="region", sets=("cells",)),
        ]
    )

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        mask = image.mean(2) > 128
        sure = np.where(mask, 0.9, 0.1).astype(np.float32)
        return [
            Finding(name, mask, 0.9, 0.9 if mask.any() else 0.1, mask.astype(np.int32), True, name, None, sure)
            for name in concepts
        ]


@pytest.fixture
def cells(tmp_path):
    """Three pictures: a bright nucleus, one whose lower half alone is labelled, and none."""
    folder = tmp_path / "sets" / "cells"
    folder.mkdir(parents=True)
    rows = []
    for name, rows_of_truth in (("whole", slice(12, 36)), ("half", slice(24, 36)), ("none", slice(0, 0))):
        pixels, ids = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint16)
        if name != "none":
            pixels[12:36, 12:36] = 255
        ids[rows_of_truth, 12:36] = 1
        Image.fromarray(pixels).save(folder / f"{name}.png")
        Image.fromarray(ids).save(folder / f"{name}-ids.png")
        rows.append(
            {"id": name, "image": f"{name}.png", "instances": f"{name}-ids.png", "classes": {"1": "nucleus"},
             "group": name, "split": "test"}
        )  # fmt: skip
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def bright(monkeypatch):
    monkeypatch.setattr(slidekick.grounding.segmentor.Segmentor, "from_pretrained", lambda *_, **__: Bright())


@pytest.mark.parametrize("place", ["set", "sets", "file"])
def test_metrics_are_those_of_the_pictures_wherever_they_are_named(bright, cells, place, capsys):
    where = {"set": cells, "sets": cells.parent, "file": cells / "items.jsonl"}[place]
    assert main(["evaluate", "grounding", str(where), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    metrics = printed["metrics"]
    half = 2 * 288 / (576 + 288)
    assert metrics["dice.nucleus"] == metrics["dice_mean"] == pytest.approx((1 + half) / 2, abs=1e-4)
    assert metrics["aji.nucleus"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["pq.nucleus"] == pytest.approx(0.5), "an IoU of one half is no match"
    assert metrics["presence_mcc"] == metrics["absent_not_found"] == 1
    assert metrics["ece"] == pytest.approx(0.1, abs=1e-3), "0.9 where it always is, 0.1 where it never is"
    assert 0 < metrics["cgf1"] < 1
    assert "dice_mean_minus_unet" in metrics
    assert all(value is None or math.isfinite(value) for value in metrics.values())


def test_files_and_pictures_are_written(bright, cells, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "grounding", str(cells), "--out", str(out)]) == 0
    assert "0.83" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} >= {
        "figures.json",
        "samples.jsonl",
        "best.png",
        "worst.png",
        "dice.png",
    }
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {row["item"] for row in samples} == {"cells/whole", "cells/half", "cells/none"}


@pytest.mark.parametrize(("given", "named"), [([], "arguments are required: DATA"), (["--split", "train"], "no item")])
def test_what_cannot_be_measured_is_told(bright, cells, given, named, capsys):
    place = [str(cells)] if given else []
    with pytest.raises(SystemExit) if not given else _nothing():
        assert main(["evaluate", "grounding", *place, *given]) == 2
    assert named in capsys.readouterr().err


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


class Says:
    """An engine that says one thing to everything."""

    name, history = "says", 0

    def __init__(self, line: str) -> None:
        self.line = line

    def turn(self, messages, image, tools, *, calls=True):
        yield self.line
        yield Turn(self.line, 0.9)


@pytest.fixture
def questions(tmp_path):
    folder = tmp_path / "questions"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    rows = [
        {"id": str(i), "question": "Is it?", "answer": a, "image": "p.png"} for i, a in enumerate(("yes", "no", "no"))
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def says(monkeypatch):
    """Makes the command line's copilot say one thing."""

    def make(line):
        monkeypatch.setattr(slidekick.apps.evaluate, "load_copilot", lambda *_, **__: Copilot(Says(line), Bright()))

    return make


def test_answers_are_scored_written_and_compared(says, questions, tmp_path, capsys):
    for name, line in (("a", "Yes."), ("b", "No, it is not.")):
        says(line)
        command = ["evaluate", "vqa", str(questions), "--out", str(tmp_path / name), "--tsv", str(tmp_path / "t.tsv")]
        assert main([*command, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((tmp_path / name / "figures.json").read_text())
        assert printed["metrics"]["accuracy"] == pytest.approx(1 / 3 if name == "a" else 2 / 3, abs=1e-4)
        assert printed["metrics"]["accuracy_n"] == 3
    written = {path.name for path in (tmp_path / "a").iterdir()}
    assert written == {"figures.json", "samples.jsonl", "answers.jsonl", "evaluation.html"}
    assert "No, it is not." in (tmp_path / "t.tsv").read_text()
    assert main(["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == pytest.approx(1 / 3, abs=1e-4)
    assert main(["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "Research use only" in capsys.readouterr().out


def test_a_table_says_what_it_is_of(says, questions, capsys):
    says("yes")
    assert main(["evaluate", "vqa", str(questions), "--text-only"]) == 0
    told = capsys.readouterr().out
    assert "accuracy" in told
    assert "3 questions were asked with a blank picture" in told
    assert "Research use only" in told


def test_tool_use_is_asked_scored_and_compared(says, cells, tmp_path, capsys):
    lines = {"a": '<tool_call>\n{"name": "count", "arguments": {"concept": "nucleus"}}\n</tool_call>', "b": "colon"}
    for name, line in lines.items():
        says(line)
        command = ["evaluate", "tools", str(cells), "--limit", "12", "--out", str(tmp_path / name), "--json"]
        assert main(command) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        assert (metrics["tool_choice.count"], metrics["tool_choice.none"]) == ((1, 0) if name == "a" else (0, 1))
        rows = [json.loads(one) for one in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        assert len(rows) == metrics["tool_choice_n"] <= 12
        assert {one["called_tool"] for one in rows} == {"count" if name == "a" else None}
    assert "Wanted:" in (tmp_path / "a" / "evaluation.html").read_text()
    assert main(["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["tool_choice.count"] == -1


@pytest.mark.parametrize(
    ("command", "told"),
    [(["classify"], "nothing to ask for classify"), (["vqa", "--limit", "0"], "--limit 0"),
     (["classify", "--risk", "2"], "--risk 2"), (["detect"], "nothing to ask for detect"),
     (["classify", "--calibrate", "--model", "http://host/v1#m"], "lies in one")],
)  # fmt: skip
def test_what_cannot_be_asked_is_told(says, cells, command, told, capsys):
    says("yes")
    assert main(["evaluate", command[0], str(cells), *command[1:]]) == 2
    assert told in capsys.readouterr().err


def test_runs_that_are_not_there_are_told(tmp_path, capsys):
    assert main(["evaluate", "compare", str(tmp_path), str(tmp_path)]) == 2
    assert "samples.jsonl" in capsys.readouterr().err
