"""`slidekick segment` with a segmentor that knows its answer beforehand; the real one is tested in its own room."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from slidekick.apps.cli import main
from slidekick.grounding.export import from_rle
from slidekick.grounding.finding import Finding
from slidekick.grounding.vocabulary import Concept, Vocabulary


class KnowsAnswers:
    """Two square nuclei in the upper left, no gland, and no word for anything else."""

    vocabulary = Vocabulary([Concept(name, "object", (), (0.25, 0.5), 1.0) for name in ("nucleus", "gland")])

    @classmethod
    def from_pretrained(cls, folder=None):
        return cls()

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        empty = np.zeros(image.shape[:2], bool)
        labels = empty.astype(np.int32)
        labels[4:8, 4:8], labels[12:16, 4:8] = 1, 2
        answers = {
            "nucleus": Finding("nucleus", labels > 0, 0.9, 0.99, labels, prompt="nucleus"),
            "gland": Finding("gland", empty, 0.0, 0.02, prompt="gland"),
        }
        unknown = {"known": False, "nearest": "nucleus"}
        return [answers.get(words) or Finding(words, empty, 0.0, 0.0, prompt=words, **unknown) for words in concepts]


@pytest.fixture(autouse=True)
def segmentor(monkeypatch):
    module = ModuleType("slidekick.grounding.segmentor")
    module.Segmentor = KnowsAnswers
    monkeypatch.setitem(sys.modules, "slidekick.grounding.segmentor", module)


def test_the_table_tells_what_was_found_and_what_was_not(picture, capsys):
    assert main(["segment", str(picture), "--concept", "nucleus", "--concept", "gland", "--mpp", "0.5"]) == 0
    head, nucleus, gland = capsys.readouterr().out.splitlines()
    assert head.split() == ["concept", "found", "count", "area", "diameter", "where", "presence"]
    assert nucleus.split() == [
        "nucleus",
        "yes",
        "2",
        "0.5",
        "%",
        "=",
        "8",
        "µm²",
        "2.3",
        "µm",
        "upper",
        "left",
        "0.99",
    ]
    assert gland.split() == ["gland", "no", "0.02"]


def test_without_a_scale_the_table_says_so(picture, capsys):
    assert main(["segment", str(picture), "--concept", "nucleus"]) == 0
    out = capsys.readouterr().out
    assert "µm²" not in out
    assert "4.5 px" in out
    assert out.splitlines()[-1] == "The picture states no scale: sizes in µm need --mpp."


def test_json_holds_numbers_and_masks(picture, capsys):
    assert main(["segment", str(picture), "--concept", "nucleus", "--concept", "gland", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["picture"]["source"] == "tissue.png"
    assert (said["picture"]["width"], said["picture"]["height"], said["picture"]["mpp"]) == (96, 64, None)
    nucleus, gland = said["findings"]
    assert (nucleus["count"], nucleus["area_px"], nucleus["presence"]) == (2, 32, 0.99)
    assert from_rle(nucleus["rle"]).sum() == 32
    assert (gland["found"], gland["rle"]) == (False, None)


def test_the_files_are_written_whole_and_named_after_the_picture(picture, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    arguments = ["segment", str(picture), "--concept", "nucleus", "--region", "2,2,40,30", "--out", str(out)]
    assert main(arguments) == 0
    names = ["tissue.geojson", "tissue.masks.json", "tissue.nucleus.png", "tissue.overlay.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    features = json.loads((out / "tissue.geojson").read_text())["features"]
    assert len(features) == 2
    assert features[0]["geometry"]["coordinates"][0][0] in [[6, 6], [10, 6], [6, 10], [10, 10]]  # level 0: +2
    assert from_rle(json.loads((out / "tissue.masks.json").read_text())["nucleus"]).sum() == 32
    with Image.open(out / "tissue.nucleus.png") as labels:
        assert np.array_equal(np.unique(np.asarray(labels)), [0, 1, 2])
    with Image.open(out / "tissue.overlay.png") as overlay:
        assert overlay.width == 40
        assert overlay.height > 30  # the legend below
    assert str(out / "tissue.geojson") in capsys.readouterr().out


def test_a_word_outside_the_vocabulary_is_told_with_the_nearest_known(picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["segment", str(picture), "--concept", "unicorn", "--out", str(out)]) == 2
    said = "slidekick: concept 'unicorn' is not in the segmentor's vocabulary; nearest known: nucleus\n"
    assert capsys.readouterr().err == said
    assert not out.exists()
    assert main(["segment", str(picture), "--concept", "unicorn", "--concept", "nucleus"]) == 0
    captured = capsys.readouterr()
    assert captured.err == said
    assert "unknown (nearest known: nucleus)" in captured.out


def test_a_concept_given_twice_is_looked_for_once(picture, capsys):
    assert main(["segment", str(picture), "--concept", "nucleus", "--concept", " nucleus "]) == 0
    assert capsys.readouterr().out.count("nucleus") == 1
