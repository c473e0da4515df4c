"""Who the tissue is of never leaves a slide: marked names, numbers, dates and labels in every format, and all that the
commands write and say searched for them."""

import os
import zipfile
from pathlib import Path

import pytest
from marked_slides import LABEL, MARKS, marked, searched, told, write_marked
from PIL import Image

from slidekick.apps.cli import main

FIXTURES = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "wsi_fixtures/files"
SCANNED = sorted(FIXTURES.iterdir()) if FIXTURES.is_dir() else []
LOOKS = {"info": "", "thumbnail": "small.png", "tissue": "tissue", "tiles": "tiles.h5", "quality": ""}  # -> --out


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> list[Path]:
    return write_marked(tmp_path_factory.mktemp("marked"))


def test_the_search_finds_what_is_there(slides, tmp_path):
    """Were the commands to copy a slide, the search would say so."""
    assert len(slides) == 7
    for path in slides:
        assert len({one.split()[0] for one in told(path.read_bytes(), path.name)} & set(MARKS)) == 3, path.name
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as packed:
        packed.writestr("word/document.xml", MARKS[0])
    Image.new("RGB", (9, 9), LABEL).save(tmp_path / "a.png")
    assert len(searched(tmp_path)) == 2


def looked_at(path: Path, out: Path, caplog, capfd) -> list[str]:
    """What `slidekick slide` says, logs and writes of a slide, read or refused, searched."""
    caplog.set_level("DEBUG")
    for look, name in LOOKS.items():
        given = ["--out", str(out / name)] if name else []
        main(["slide", look, str(path), *given, "--json"])
    main(["slide", "info", str(path)])
    said = capfd.readouterr()
    heard = "\n".join([said.out, said.err, caplog.text])
    assert heard
    return told(heard.encode(), "what was said") + searched(out)


@pytest.mark.parametrize("number", range(7))
def test_looking_at_a_slide_tells_nothing_of_its_patient(slides, number, tmp_path, caplog, capfd):
    out = tmp_path / "out"
    out.mkdir()
    assert looked_at(slides[number], out, caplog, capfd) == []
    assert {path.suffix for path in out.rglob("*")} >= {".png", ".h5", ".geojson"}


def test_asking_for_a_report_tells_nothing_of_the_patient(slides, tmp_path, caplog, capfd):
    """All of its files: HTML, Word, Markdown, JSON, FHIR, pictures and masks."""
    caplog.set_level("DEBUG")
    for path in (slides[0], slides[2]):  # a picture's words; a scanner's
        out, field = tmp_path / path.stem, ["--region", "64,64,384,384", "--mpp", "0.5"]
        assert main(["report", str(path), *field, "--out", str(out)]) == 0
        assert main(["segment", str(path), *field, "--concept", "nucleus", "--out", str(out / "masks"), "--json"]) == 0
    said = capfd.readouterr()
    assert told((said.out + said.err + caplog.text).encode(), "what was said") == []
    assert {path.suffix for path in tmp_path.rglob("*")} >= {".html", ".docx", ".md", ".json", ".png", ".geojson"}
    assert searched(tmp_path) == []


@pytest.mark.parametrize(
    "source",
    SCANNED or [pytest.param(None, marks=pytest.mark.skip(f"NO SLIDES at {FIXTURES}"))],
    ids=lambda path: getattr(path, "name", "none"),
)
def test_looking_at_a_scanners_slide_tells_nothing_of_its_patient(source, tmp_path, caplog, capfd):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    assert looked_at(marked(source, tmp_path / "in"), tmp_path / "out", caplog, capfd) == []
