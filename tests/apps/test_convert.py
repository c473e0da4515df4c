"""`slidekick convert` as users run it."""

import json

import numpy as np
import pytest
from PIL import Image

from slidekick.apps.cli import main
from slidekick.data.items import load_items


@pytest.fixture
def glas(tmp_path):
    """Two pictures of the GlaS challenge, as published."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("train_1", "testA_1"):
        Image.fromarray(np.full((40, 60, 3), 180, np.uint8)).save(folder / f"{name}.bmp")
        ids = np.zeros((40, 60), np.uint8)
        ids[5:20, 5:20] = 1
        Image.fromarray(ids).save(folder / f"{name}_anno.bmp")
    (folder / "Grade.csv").write_text(
        "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\r"
        "testA_1,4, benign, adenomatous\rtrain_1,2, malignant, moderately differentiated\r"
    )
    return folder


def test_a_set_is_written_and_told(slidekick, glas, tmp_path):
    done = slidekick("convert", "glas", glas, "--out", tmp_path / "sets" / "glas")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 pictures" in done.stdout
    assert "train 1 (1 groups), val 0 (0 groups), test 1 (1 groups)" in done.stdout
    assert "benign gland, malignant gland" in done.stdout
    assert "research only, not commercial" in done.stdout
    assert {item.id: item.split for item in load_items(tmp_path / "sets")} == {"testA_1": "test", "train_1": "train"}


def test_the_same_as_json(glas, tmp_path, capsys):
    assert main(["convert", "glas", str(glas), "--out", str(tmp_path / "out"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["schema"], about["source"], about["items"]) == ("slidekick.convert/1", "glas", 2)
    assert about["out"] == str(tmp_path / "out")


def test_help_names_every_source(slidekick):
    from slidekick.data.sources import SOURCES

    shown = slidekick("convert", "--help").stdout
    assert all(name in shown and what in shown for name, what in SOURCES.items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["camelyon", "FOLDER", "--out", "OUT"], "invalid choice: 'camelyon'"),
        (["glas", "FOLDER"], "required: --out"),
        (["glas", "MISSING", "--out", "OUT"], "missing: no such folder; give the folder that holds GlaS'"),
        (["bcss", "FOLDER", "--out", "OUT"], "no pictures below it; expected BCSS' rgbs_colorNormalized"),
        (["glas", "FOLDER", "--out", "OUT", "--tile", "8"], "tile 8 is too small; give 64 px or more"),
        (["glas", "FOLDER", "--out", "FILE"], "is there already and was not written here"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(slidekick, glas, tmp_path, arguments, told):
    (tmp_path / "file").write_text("mine")
    places = {
        "FOLDER": glas,
        "MISSING": tmp_path / "missing",
        "OUT": tmp_path / "out",
        "FILE": tmp_path / "file",
    }
    done = slidekick("convert", *(places.get(word, word) for word in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert told in done.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "file").read_text() == "mine"
