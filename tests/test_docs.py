"""What README and docs tell to type: every command is understood as it stands, and those for one's own pictures run.

Commands run on real tissue cut to small fields, with mini; those that train or need labelled sets are parsed alone,
since they take from minutes to an hour and have tests of their own.
"""

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from slidekick.apps.cli import build_parser, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page):
    """Lines of the page's fenced blocks without a language, and what stands between backticks in its tables."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    for row in (line for line in text.splitlines() if line.startswith("|")):
        yield from re.findall(r"`([^`]+ [^`]+)`", row)


def commands(start):
    """Commands that begin so, without comments, with the page that tells them."""
    found = {}
    for page in PAGES:
        for line in blocks(page):
            if line.strip().startswith(start):
                found.setdefault(" ".join(shlex.split(line, comments=True)), line.split("  #")[0].strip())
    return list(found.values())


SPOKEN = commands("slidekick ")
MODULES = commands("python -m slidekick.")


def words_of(line):
    """Each command that a line stands for: "vqa|detect" are two, what stands in brackets is given too."""
    words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)[1:]
    choice = next((word for word in words if re.fullmatch(r"\w+(\|\w+)+", word)), None)
    return [[one if word == choice else word for word in words] for one in choice.split("|")] if choice else [words]


def test_the_pages_tell_commands():
    assert len(SPOKEN) > 40


@pytest.mark.parametrize("line", SPOKEN)
def test_a_command_is_understood_as_it_stands(line):
    for words in words_of(line):
        parser, module = build_parser(words)
        assert module is not None, words
        parser.parse_args(words)
        for name in (word for word in words if re.fullmatch(r"(rl|grounding)/configs/\S+", word)):
            assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("line", MODULES)
def test_a_module_that_is_told_of_is_there_with_its_options(line):
    _, _, name, *words = shlex.split(line, comments=True)
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    source = Path(spec.origin).read_text(encoding="utf-8")
    for option in (word.strip("[]") for word in words if word.strip("[]").startswith("--")):
        assert f'"{option}"' in source, option


def test_every_page_of_the_docs_is_linked_from_somewhere():
    told = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CONTRIBUTING.md"])
    for page in PAGES[1:]:
        assert re.search(rf"\((?:docs/)?{page.name}[)#]", told), page.name


# ---- what a user types about their own pictures

RUN = [
    line
    for line in SPOKEN
    if re.match(r"slidekick (ask|segment|report|revise|vocabulary|doctor|slide|case) ", f"{line} ")
    and not re.search(r"--model|--workers", line)
]
FIELD, SLIDE = ("IMAGE", "field.png", "tile.png"), ("slide.svs", "case.svs", "a.svs", "b.svs")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the files that the pages speak of: a field of a sample, and small slides made of it."""
    import numpy as np
    import tifffile
    from PIL import Image

    from slidekick.data import read_roi
    from slidekick.data.samples import sample

    desk = tmp_path_factory.mktemp("desk")
    field = read_roi(sample("he")).pixels[:256, :320]
    for name in FIELD:
        Image.fromarray(field).save(desk / f"{Path(name).stem}.png")
    whole = np.tile(field, (10, 8, 1))  # 2560 px: read as a slide
    for name in SLIDE:
        with tifffile.TiffWriter(desk / f"{Path(name).stem}.tif") as writer:
            options = {"tile": (256, 256), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
            writer.write(whole, subifds=1, resolution=(20000, 20000), **options)
            writer.write(whole[::4, ::4], subfiletype=1, resolution=(5000, 5000), **options)
    (desk / "my-checklist.yaml").write_text("tumour: mine\nelements:\n- element: Nuclei\n- element: Margins\n")
    ring = [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]
    shape = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    shape["properties"] = {"objectType": "annotation", "classification": {"name": "gland"}}
    (desk / "edited.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    return desk


@pytest.mark.parametrize("line", RUN)
def test_a_command_for_ones_own_pictures_runs(desk, monkeypatch, capsys, line):
    monkeypatch.chdir(desk)
    (words,) = words_of(line)
    words = [f"{Path(word).stem}.png" if word in FIELD else word for word in words]
    words = [f"{Path(word).stem}.tif" if word in SLIDE else word for word in words]
    words = ["0,0,2048,2048" if word == "0,0,4000,4000" else word for word in words]
    if words[0] == "revise" and not (desk / "report").is_dir():
        assert main(["report", "field.png", "--concept", "nucleus", "--out", "report"]) == 0
    out = words[words.index("--out") + 1] if "--out" in words else None
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.strip() or (out and (desk / out).exists())
    if out and words[0] != "report":
        shutil.rmtree(desk / out, ignore_errors=True)
