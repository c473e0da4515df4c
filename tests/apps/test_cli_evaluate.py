import json
import math

import numpy as np
import pytest
from PIL import Image

import slidekick.grounding.segmentor
from slidekick.apps.cli import main
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
    assert main(["evaluate", "grounding", "--items", str(where), "--json"]) == 0
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


@pytest.mark.parametrize(("given", "named"), [([], "one of the arguments"), (["--split", "train"], "no item")])
def test_what_cannot_be_measured_is_told(bright, cells, given, named, capsys):
    place = [str(cells)] if given else []
    with pytest.raises(SystemExit) if not given else _nothing():
        assert main(["evaluate", "grounding", *place, *given]) == 2
    assert named in capsys.readouterr().err


def _nothing():
    from contextlib import nullcontext

    return nullcontext()
