"""What is not as published is refused with the file's name and what was expected; nothing is written."""

import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from slidekick.data.errors import InputError
from slidekick.data.sources import SOURCES, convert, source


def first(folder, pattern: str):
    return sorted(path for path in folder.rglob(pattern) if not path.name.startswith("._"))[0]


def cut(pattern: str, keep: float = 0.5):
    def mend(folder):
        path = first(folder, pattern)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return mend


def remove(pattern: str):
    def mend(folder):
        path = first(folder, pattern)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return mend


def text(pattern: str, old: str, new: str):
    def mend(folder):
        path = first(folder, pattern)
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))

    return mend


def rename(pattern: str, name: str):
    def mend(folder):
        path = first(folder, pattern)
        path.rename(path.with_name(name))

    return mend


def array(pattern: str, change):
    """Change a .npy file, a label picture or, by name, an array of a .mat file."""

    def mend(folder):
        path = first(folder, pattern)
        if path.suffix == ".npy":
            np.save(path, change(np.load(path)))
        elif path.suffix == ".mat":
            held = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
            change(held)
            savemat(path, held)
        else:
            Image.fromarray(change(np.asarray(Image.open(path)).copy())).save(path)

    return mend


def put(value, *index):
    def change(values):
        values[index] = value
        return values

    return change


def objects(folder):
    np.save(first(folder, "types.npy"), np.array(["Breast", None], object), allow_pickle=True)


def twice(folder):
    shutil.copytree(folder / "Fold 1", folder / "again" / "Fold 1")


def hdf5(folder):
    head = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<HH", 0x0200, 0x4D49)
    first(folder, "*.mat").write_bytes(head + bytes(1000))


BAD = [
    ("pannuke", remove("Fold 1/images"), "fold 1 lacks its images.npy or masks.npy; unpack its archive again"),
    ("pannuke", remove("types.npy"), "types.npy: no such file; expected the organs of the 2 fields"),
    ("pannuke", cut("masks.npy"), "masks.npy: not a whole NumPy array"),
    ("pannuke", objects, "types.npy: not a whole NumPy array"),
    ("pannuke", array("masks.npy", lambda v: v[..., :5]), "holds 2 x 256 x 256 x 5; expected masks of the 2 fields"),
    ("pannuke", array("types.npy", lambda v: v[:1]), "types.npy: holds 1; expected the organs of the 2 fields"),
    ("pannuke", array("types.npy", put("Brain", 0)), "types.npy: unknown organ 'Brain'; expected Adrenal_gland"),
    ("pannuke", array("images.npy", put(-1, 0, 0, 0, 0)), "field 0 is not within 0 to 255"),
    ("pannuke", array("masks.npy", put(0.5, 0, 0, 0, 0)), "masks.npy: object ids are not whole numbers"),
    ("pannuke", array("masks.npy", put(np.nan, 1, 0, 0, 2)), "masks.npy: object ids are not whole numbers"),
    ("pannuke", twice, "fold 1 is there twice"),
    ("monuseg", remove("TCGA-18*.xml"), "TCGA-18-5592-01Z-00-DX1.tif: its partner Annotations/TCGA-18"),
    ("monuseg", cut("TCGA-18*.xml"), "TCGA-18-5592-01Z-00-DX1.xml: not a whole ImageScope annotation"),
    ("monuseg", cut("TCGA-18*.tif"), "TCGA-18-5592-01Z-00-DX1.tif: not a whole picture"),
    ("monuseg", text("TCGA-18*.xml", "Region ", "Area "), "not a whole ImageScope annotation"),
    ("monuseg", text("TCGA-18*.xml", 'X="2"', 'X="inf"'), "a corner that is no number"),
    ("monuseg", text("TCGA-18*.xml", 'X="2"', 'W="2"'), "not a whole ImageScope annotation ('X')"),
    ("monuseg", text("TCGA-18*.xml", 'X="', 'X="9999'), "no outline lies in the picture of 40 x 30"),
    ("monuseg", text("TCGA-18*.xml", "<Annotations", "<!DOCTYPE a><Annotations"), "holds entity definitions"),
    ("monuseg", rename("TCGA-18*.tif", "field.tif"), "field.tif: not named by a TCGA barcode"),
    ("lizard", remove("info.csv"), "no info.csv below it; expected Lizard_Images1"),
    ("lizard", remove("glas_1.mat"), "glas_1.png: its labels Labels/glas_1.mat are missing"),
    ("lizard", cut("glas_1.mat"), "glas_1.mat: not a whole MATLAB file"),
    ("lizard", hdf5, "consep_1.mat: not a whole MATLAB file of version 4 to 7.2"),
    ("lizard", text("info.csv", "glas_1,", "glas_2,"), "info.csv: no row for glas_1; expected one for each region"),
    ("lizard", text("info.csv", "testB_10", "testB_99"), "glas_1 is GlaS' 'testB_99', which Lizard does not hold"),
    ("lizard", text("info.csv", "test_14", "odd_14"), "consep_1 is CoNSeP's 'odd_14'; expected train_1"),
    ("lizard", text("info.csv", "Split", "Fold"), "info.csv: no column 'Split'; expected Filename, Source, Split"),
    ("lizard", text("info.csv", "None,3", "None"), "info.csv: row 8 has 2 of 3 columns"),
    ("lizard", text("info.csv", "None,3", "None,x"), "Split of pannuke_1 is 'x', not a whole number"),
    ("lizard", array("glas_1.mat", lambda m: m.update({"class": m["class"][:2]})), "3 ids and 2 classes"),
    ("lizard", array("glas_1.mat", lambda m: m["class"].fill(7)), "unknown class number 7; expected 0 or 1 neutro"),
    ("lizard", array("glas_1.mat", lambda m: m["class"].fill(0)), "object 1 has class 0; expected 1 to 6"),
    ("lizard", array("glas_1.mat", lambda m: m["id"].fill(1)), "object 2 of inst_map is not listed in id"),
    ("lizard", array("glas_1.mat", lambda m: m.pop("inst_map")), "no array of numbers named inst_map"),
    (
        "lizard",
        array("glas_1.mat", lambda m: m.update(inst_map=m["inst_map"].T)),
        "labels of 50 x 40, the picture is 40",
    ),
    ("lizard", array("glas_1.mat", lambda m: m["inst_map"].fill(70_000)), "object ids up to 70000"),
    ("glas", remove("Grade.csv"), "no Grade.csv below it; expected GlaS' train_1.bmp"),
    ("glas", remove("train_1_anno.bmp"), "train_1.bmp: its partner Warwick QU Dataset"),
    ("glas", cut("train_1_anno.bmp"), "train_1_anno.bmp: not a whole picture"),
    ("glas", text("Grade.csv", "train_1,", "train_2,"), "Grade.csv: no row for train_1; expected one for each picture"),
    (
        "glas",
        text("Grade.csv", "malignant", "unsure"),
        "grade (GlaS) of train_1 is 'unsure'; expected benign, malignant",
    ),
    ("glas", text("Grade.csv", "train_1,2", "train_1,two"), "patient ID of train_1 is 'two', not a whole number"),
    ("glas", array("train_1_anno.bmp", lambda v: v[:-1]), "labels of 44 x 60, the picture is 45 x 60"),
    ("bcss", remove("masks/TCGA-A1*"), "its partner masks/TCGA-A1-A0SK"),
    ("bcss", remove("rgbs_colorNormalized"), "no pictures below it; expected BCSS' rgbs_colorNormalized"),
    ("bcss", array("masks/TCGA-A1*", put(22, 0, 0)), "unknown class number 22; expected 0 or 1 tumour"),
    ("bcss", array("masks/TCGA-A1*", lambda v: v[:, 1:]), "labels of 80 x 149, the picture is 80 x 150"),
    ("bcss", text("gtruth_codes.tsv", "tumor\t1", "tumor\t2"), "code 2 is 'tumor'; expected 'stroma'"),
    ("bcss", rename("rgbs*/TCGA-A1*", "region_1.png"), "region_1.png: the name does not tell patient and scale"),
    ("bcss", cut("rgbs*/TCGA-A1*"), "MPP-0.2500.png: not a whole picture"),
    ("consep", remove("train_1.mat"), "train_1.png: its partner Labels/train_1.mat is missing"),
    ("consep", rename("Train", "Validation"), "neither in Train nor in Test"),
    ("consep", array("train_1.mat", lambda m: m["type_map"].fill(8)), "unknown class number 8; expected 0 or 1 other"),
    ("consep", array("train_1.mat", lambda m: m["inst_map"].fill(-1)), "object ids go down to -1"),
    ("consep", array("train_1.mat", lambda m: m.update(type_map=np.zeros((3, 3)))), "labels of 3 x 3, the picture is"),
    ("nuinsseg", remove("human_bladder_01.tif"), "its partner label masks modify/human_bladder_01.tif is missing"),
    ("nuinsseg", remove("vague areas/mask binary/human_bladder_02.png"), "its partner mask binary/human_bladder_02"),
    ("nuinsseg", cut("human_bladder_01.tif"), "human_bladder_01.tif: not a whole picture"),
    ("nuinsseg", rename("human bladder", "bladder"), "bladder: not named by species and organ"),
    ("ebhi_seg", remove("Adenocarcinoma/label"), "label: no such folder; give the folder that holds the labels"),
    ("ebhi_seg", rename("Adenocarcinoma", "Carcinoid"), "Carcinoid: unknown diagnosis; expected EBHI-Seg's"),
    ("ebhi_seg", cut("Adenocarcinoma/label/*.png"), "GT2001837-1-400-001.png: not a whole picture"),
    ("ebhi_seg", array("Adenocarcinoma/label/*.png", lambda v: v[1:]), "labels of 55 x 56, the picture is 56 x 56"),
]


@pytest.mark.parametrize(("name", "spoil", "told"), BAD, ids=[f"{bad[0]}-{bad[2][:40]}" for bad in BAD])
def test_what_is_not_as_published_is_told_and_nothing_written(published, tmp_path, name, spoil, told):
    folder = published(name)
    spoil(folder)
    with pytest.raises(InputError) as caught:
        convert(name, folder, tmp_path / "sets" / name)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sets").exists() or list((tmp_path / "sets").iterdir()) == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_folder_without_the_data_set_is_told_with_what_was_expected(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for place, told in (
        ("empty", "expected"),
        ("missing", "no such folder; give"),
        ("file", "is a file, not a folder"),
    ):
        with pytest.raises(InputError, match=rf"{place}: .*{told}"):
            source(name).read(tmp_path / place)


@pytest.mark.parametrize("name", ["lizard", "glas", "bcss", "consep", "nuinsseg", "ebhi_seg"])
def test_the_layout_is_looked_over_before_a_picture_is_opened(published, name):
    """A missing partner of the last picture is told at once, not after hours."""
    folder = published(name)
    pattern = {"lizard": "pannuke_1.mat", "glas": "train_9_anno.bmp", "bcss": "masks/TCGA-OL*", "consep": "train_2.mat"}
    if name in pattern:
        first(folder, pattern[name]).unlink()
    elif name == "nuinsseg":
        first(folder, "mouse_muscle_tibia_01.tif").unlink()
    else:
        shutil.rmtree(folder / "EBHI-SEG" / "Serrated adenoma" / "label")
    with pytest.raises(InputError):
        source(name).read(folder)


def test_a_colour_picture_is_no_label_map(published):
    folder = published("glas")
    path = first(folder, "train_1_anno.bmp")
    Image.fromarray(np.random.default_rng(1).integers(0, 9, (45, 60, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match="a colour picture; expected one channel of label numbers"):
        list(source("glas").read(folder))


def test_pictures_of_one_name_are_told(published, tmp_path):
    folder = published("consep")
    shutil.copytree(folder / "CoNSeP", folder / "Copy")
    with pytest.raises(InputError, match="two pictures are called 'test_1'; give a folder that holds each once"):
        convert("consep", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_read_is_not_taken_for_one_that_cannot_be_written(published, tmp_path, monkeypatch):
    folder = published("consep")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(folder / "train_1.png"))

    monkeypatch.setattr("slidekick.data.sources.consep.picture", refuse)
    with pytest.raises(InputError, match=r"train_1\.png: cannot be read \(permission denied\)"):
        convert("consep", folder, tmp_path / "out")


def test_a_table_that_cannot_be_read_is_told_before_a_picture_is_opened(published, tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    folder = published("glas")
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(InputError, match=r"Grade\.csv: cannot be read \(permission denied\)"):
        source("glas").read(folder)


def test_a_layout_that_cannot_be_looked_over_is_told(published, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    folder = published("consep")
    monkeypatch.setattr("slidekick.data.sources.consep.read", refuse)
    with pytest.raises(InputError, match=r"consep.*: cannot be read \(permission denied\)"):
        convert("consep", folder, tmp_path / "out")
