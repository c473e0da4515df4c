"""`slidekick segment` on whole slides, with a segmentor that takes what is dark for nuclei."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dark_segmentor import dark_segmentor
from PIL import Image
from scipy import ndimage

import slidekick.data.slide
from slidekick.apps.cli import main
from slidekick.grounding import Segmentor


@pytest.fixture(autouse=True)
def segmentor(monkeypatch):
    monkeypatch.setattr(Segmentor, "from_pretrained", classmethod(lambda cls, folder=None: dark_segmentor()))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(700, 900)), 9)
    grey = np.clip(150 - 60 * field / field.std(), 0, 225)[..., None] + (30, 0, 20)
    whole = np.full((700, 900, 3), 255, np.uint8)
    whole[60:-60, 60:-60] = grey[60:-60, 60:-60]
    return whole


@pytest.fixture
def slide(tmp_path, picture) -> Path:
    path = tmp_path / "case.tif"
    more = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(picture, resolution=(2e4, 2e4), **more)
        file.write(np.ascontiguousarray(picture[::2, ::2]), resolution=(1e4, 1e4), subfiletype=1, **more)
    return path


def asked(slide: Path, *more: str) -> list[str]:
    return ["segment", str(slide), "--whole", "--concept", "nucleus", "--workers", "1", *more]


def test_a_whole_slide_gives_a_table_and_its_files(slide, tmp_path, capsys):
    assert main(asked(slide, "--concept", "gland", "--out", str(tmp_path / "out"))) == 0
    said = capsys.readouterr()
    head, nucleus, gland, *files = said.out.splitlines()
    assert head.split() == ["concept", "found", "count", "area", "of", "tissue", "density", "diameter", "presence"]
    assert nucleus.split()[:2] == ["nucleus", "yes"]
    assert " mm²" in nucleus
    assert gland.split() == ["gland", "no", "0.00"]
    assert {Path(line.split(": ")[1]).name for line in files} == {one.name for one in (tmp_path / "out").iterdir()}
    assert "case.nucleus.labels.ome.tif" in {one.name for one in (tmp_path / "out").iterdir()}


def test_json_is_one_object_with_what_is_in_the_statistics(slide, tmp_path, capsys):
    assert main(asked(slide, "--concept", "tumour", "--out", str(tmp_path / "out"), "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    kept = json.loads((tmp_path / "out" / "case.statistics.json").read_text())
    assert facts["schema"] == "slidekick.slide-segment/1"
    assert facts["findings"] == kept["findings"]
    assert facts["findings"][0]["whole"]["count"] > 10
    assert all(Path(path).is_file() for path in facts["files"].values())
    assert facts["warnings"] == []


def test_words_for_one_concept_are_looked_for_once_and_unknown_ones_are_named(slide, tmp_path, capsys):
    assert main(asked(slide, "--concept", "nuclei", "--concept", "unicorn", "--out", str(tmp_path / "out"))) == 0
    said = capsys.readouterr()
    assert "concept 'unicorn' is not in the segmentor's vocabulary; nearest known: " in said.err
    assert [line.split()[0] for line in said.out.splitlines()[1:3]] == ["nucleus", "unicorn"]
    assert "unknown" in said.out.splitlines()[2]


def test_a_file_too_large_for_one_read_is_a_whole_slide_by_itself(slide, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(slidekick.data.slide, "READ_LIMIT_PX", 500_000)
    words = ["segment", str(slide), "--concept", "nucleus", "--workers", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "slidekick.slide-segment/1"
    assert main([*words, "--region", "100,100,300,300"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "slidekick.segment/1"
    assert main([*words, "--mpp", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "slidekick.segment/1", "read coarser it is a picture"


def test_a_slide_without_scale_is_given_one_by_mpp(picture, tmp_path, capsys):
    Image.fromarray(picture).save(tmp_path / "case.png")
    out = ["--out", str(tmp_path / "out")]
    assert main(asked(tmp_path / "case.png", *out)) == 2
    assert "--mpp" in capsys.readouterr().err
    assert main(asked(tmp_path / "case.png", *out, "--mpp", "0.5", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["mpp"] == 0.5


def test_going_on_is_told(slide, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr("slidekick.grounding.stitch._draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(asked(slide, "--out", str(out))) == 130
    assert not list(out.glob("*.geojson"))
    capsys.readouterr()
    assert main(asked(slide, "--out", str(out))) == 0
    assert "slidekick: going on where a run was stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "give --out DIR"),
        (["--out", "DIR", "--region", "0,0,100,100"], "--whole and --region exclude each other"),
        (["--out", "DIR", "--point", "10,10"], "looked at by words"),
        (["--out", "DIR", "--box", "10,10,50,50"], "looked at by words"),
        (["--out", "DIR", "--zarr"], "--zarr is for one picture"),
        (["--out", "DIR", "--workers", "0"], "--workers 0: give 1 or more"),
    ],
)
def test_what_a_whole_slide_cannot_be_asked_is_told_in_one_line(slide, tmp_path, capsys, more, told):
    assert main(asked(slide, *(str(tmp_path / "out") if word == "DIR" else word for word in more))) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_only_unknown_words_cost_no_look(slide, tmp_path, capsys):
    words = ["segment", str(slide), "--whole", "--concept", "unicorn", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "concept 'unicorn' is not in the segmentor's vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_specialists_concept_is_not_looked_for_on_all_of_a_slide(slide, install, tmp_path, capsys):
    code = """
    from slidekick.grounding import Concept

    class Ink:
        concepts = (Concept("ink", "region", (), (0.5, 2.0), 1.0),)

        def segment(self, image, concepts, *, mpp): ...

    ink = Ink()
    """
    install("ink-finders", code, specialists={"ink": "ink"})
    assert main(asked(slide, "--concept", "ink", "--out", str(tmp_path / "out"))) == 2
    assert "ink is a specialist's, which looks at pictures" in capsys.readouterr().err
