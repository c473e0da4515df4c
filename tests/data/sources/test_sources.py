"""Each public data set is read as its publishers mean it, and comes back the same out of the converted folder."""

import shutil

import numpy as np
import pytest
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.data.sources import SOURCES, convert, source
from slidekick.data.triples import triples, truth


def samples_of(published, name: str) -> dict:
    """id -> Sample of the data set in little."""
    return {sample.id: sample for sample in source(name).read(published(name))}


def counts(values: np.ndarray) -> dict[int, int]:
    """Value -> number of pixels, without 0."""
    held, numbers = np.unique(values[values > 0], return_counts=True)
    return dict(zip(held.tolist(), numbers.tolist(), strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_what_was_read_comes_back_out_of_the_converted_folder(published, tmp_path, name):
    folder = published(name)
    samples = {sample.id: sample for sample in source(name).read(folder)}
    about = convert(name, folder, tmp_path / name)
    items = load_items(tmp_path / name)
    assert {item.id for item in items} == set(samples)
    assert about["items"] == len(items) == sum(part["items"] for part in about["splits"].values())
    for item in items:
        sample = samples[item.id]
        assert (item.set, item.group, item.stain) == (name, sample.group, "H&E")
        assert (item.organ, item.label, item.mpp, item.magnification) == (
            sample.organ,
            sample.label,
            sample.mpp,
            sample.magnification,
        )
        assert item.extra == sample.extra
        for path, pixels, dtype in (
            (item.image, sample.image, np.uint8),
            (item.mask, sample.mask, np.uint8),
            (item.instances, sample.instances, np.uint16),
        ):
            assert (path is None) == (pixels is None)
            if path:
                assert pixels.dtype == dtype
                np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
        if item.mask:
            assert item.classes == source(name).CLASSES
            assert set(np.unique(sample.mask).tolist()) <= {0, 255, *item.classes}
            assert sample.mask.shape == sample.image.shape[:2]
    split_of = {}
    assert all(split_of.setdefault(item.group, item.split) == item.split for item in items)


@pytest.mark.parametrize("name", SOURCES)
def test_pictures_are_the_published_ones(published, name):
    """Colours in order, the picture of the same name: every fixture is noise of its own."""
    folder = published(name)
    stored = {path.stem: path for path in folder.rglob("*") if path.suffix in (".png", ".tif", ".bmp")}
    for sample in source(name).read(folder):
        if name == "pannuke":
            number, index = sample.extra["fold"], int(sample.id.split("_")[1])
            whole = np.load(folder / f"Fold {number}" / "images" / f"fold{number}" / "images.npy")[index]
        elif name == "ebhi_seg":
            (path,) = (p for p in folder.rglob(f"image/{sample.id[:-2]}.png") if _kind(p) == sample.label)
            whole = np.asarray(Image.open(path))
        else:
            path = next(
                p
                for p in folder.rglob(f"{sample.id}{stored[sample.id].suffix}")
                if not {"Overlay", "masks", "mask binary", "mask binary_vague", "label masks modify"} & set(p.parts)
            )
            whole = np.asarray(Image.open(path))
        np.testing.assert_array_equal(sample.image, whole[..., :3])


def _kind(path) -> str:
    module = source("ebhi_seg")
    return module.CLASSES[module.FOLDERS[path.parents[1].name.lower()]]


def test_pannuke_gives_every_nucleus_an_id_of_its_own_and_keeps_its_folds(published):
    samples = samples_of(published, "pannuke")
    assert [(s.id, s.organ, s.split) for s in samples.values()] == [
        ("fold1_0000", "breast", "train"),
        ("fold1_0001", "bile duct", "train"),
        ("fold2_0000", "head and neck", "val"),
        ("fold3_0000", "adrenal gland", "test"),
    ]
    sample = samples["fold1_0000"]
    assert counts(sample.mask) == {1: 32, 2: 16, 5: 12}
    assert counts(sample.instances) == {1: 16, 2: 16, 3: 16, 4: 12}
    assert (sample.mask[10, 10], sample.instances[10, 10]) == (1, 1)
    assert (sample.mask[52, 52], sample.instances[52, 52]) == (2, 3)
    assert (sample.mpp, sample.group) == (0.25, "pannuke_fold1")


def test_monuseg_outlines_are_filled_as_in_the_challenge(published):
    samples = samples_of(published, "monuseg")
    sample = samples["TCGA-A7-A13E-01Z-00-DX1"]
    # 5 x 5 px; then 6 x 6 less the 2 x 5 that the first keeps; the third goes on outside the picture
    assert counts(sample.instances) == {1: 25, 2: 26, 3: 4}
    assert sample.instances[3:8, 2:7].min() == sample.instances[3:8, 2:7].max() == 1
    assert counts(sample.mask) == {1: 55}
    assert (sample.mpp, sample.organ, sample.group, sample.split) == (0.252, "breast", "TCGA-A7-A13E", "train")
    assert samples["TCGA-18-5592-01Z-00-DX1"].organ == "lung"
    assert samples["TCGA-2Z-A9J9-01A-01-TS1"].split == "test"


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("MoNuSegTestData", "test"),
        ("MoNuSeg 2018 Training Data", "train"),
        ("test/Tissue Images", "test"),
        ("latest", None),
    ],
)
def test_monuseg_split_is_told_by_the_archives_folder_only(published, tmp_path, given, split):
    fields = (published("monuseg") / "MoNuSegTestData").rename(tmp_path / "fields")
    shutil.copytree(fields, tmp_path / "moved" / given)
    assert {sample.split for sample in source("monuseg").read(tmp_path / "moved")} == {split}
    assert {sample.split for sample in source("monuseg").read(tmp_path / "moved" / given)} == {split}


def test_lizard_fills_objects_with_their_class_and_takes_over_the_groups_of_its_sources(published):
    samples = samples_of(published, "lizard")
    sample = samples["glas_1"]
    assert counts(sample.instances) == {1: 16, 2: 16, 9: 16}
    assert counts(sample.mask) == {2: 16, 5: 16, 6: 16}
    assert (sample.mask[5, 3], sample.mask[5, 20], sample.mask[30, 30]) == (2, 6, 5)
    assert {name: s.group for name, s in samples.items()} == {
        "consep_1": "consep_test_14",
        "consep_2": "consep_train_23",
        "crag_1": "crag_train_105",
        "dpath_2": "dpath_1902160001_2019-06-11 12_36_32",
        "dpath_15": "dpath_1902160001_2019-06-11 12_36_32",
        "glas_1": "patient_3",
        "pannuke_1": "lizard_pannuke_1",
    }
    assert (samples["consep_1"].split, samples["consep_2"].split, samples["dpath_2"].split) == ("test", "train", None)
    assert (samples["glas_1"].mpp, samples["dpath_2"].mpp) == (0.62005, None)
    assert samples["dpath_2"].extra == {"fold": 2, "origin": "dpath"}


def test_lizard_knows_the_patient_of_each_of_its_61_pictures_of_glas():
    pictures = [name for held in source("lizard").GLAS_PATIENTS.values() for name in held.split()]
    assert len(pictures) == len(set(pictures)) == 61


def test_glas_takes_grade_and_patient_out_of_a_table_with_old_line_ends(published):
    samples = samples_of(published, "glas")
    sample = samples["train_1"]
    assert counts(sample.instances) == {1: 81, 4: 81}
    assert counts(sample.mask) == {2: 162}
    assert sample.label == "moderately to poorly differentiated colorectal adenocarcinoma"
    assert counts(samples["train_9"].mask) == {1: 162}
    assert {name: (s.group, s.extra["part"]) for name, s in samples.items()} == {
        "testA_1": ("patient_4", "testA"),
        "train_1": ("patient_2", "train"),
        "train_9": ("patient_10", "train"),
    }


def test_bcss_leaves_out_what_nobody_judged_and_keeps_the_institutes_of_the_test(published):
    samples = samples_of(published, "bcss")
    sample = samples["TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500"]
    assert counts(sample.mask) == {1: 900, 2: 900, 18: 900, 255: 150 * 80 - 2700}
    assert (sample.mask == 0).sum() == 0
    assert sample.classes[18] == "blood vessel"
    assert 7 not in sample.classes
    assert (sample.group, sample.mpp, sample.instances) == ("TCGA-A1-A0SK", 0.25, None)
    assert [s.split for s in samples.values()] == ["train", "train", "test"]


def test_bcss_is_read_as_the_download_script_writes_it_too(published):
    folder = published("bcss") / "0_Public-data-Amgad2019_0.25MPP"
    (folder / "rgbs_colorNormalized").rename(folder / "images")
    (folder / "meta" / "gtruth_codes.tsv").unlink()
    assert len(list(source("bcss").read(folder))) == 3


def test_consep_keeps_kinds_ids_and_test_fields(published):
    samples = samples_of(published, "consep")
    sample = samples["train_1"]
    assert (counts(sample.mask), counts(sample.instances)) == ({4: 16, 7: 16}, {1: 16, 5: 16})
    assert {name: (s.split, s.group) for name, s in samples.items()} == {
        "test_1": ("test", "consep_test_1"),
        "train_1": ("train", "consep_train_1"),
        "train_2": ("train", "consep_train_2"),
    }


def test_nuinsseg_marks_vague_areas_as_not_judged_but_no_nucleus(published):
    samples = samples_of(published, "nuinsseg")
    sample = samples["human_bladder_01"]
    assert counts(sample.instances) == {1: 64, 300: 64}
    assert counts(sample.mask) == {1: 128, 255: 2 * 64 - 36}
    assert 255 in counts(samples["mouse_muscle_tibia_01"].mask)
    assert counts(samples["human_salivory_gland_01"].mask) == {1: 128}
    assert {s.id: (s.organ, s.group, s.extra["species"]) for s in samples.values()} == {
        "human_bladder_01": ("bladder", "nuinsseg_human_bladder", "human"),
        "human_bladder_02": ("bladder", "nuinsseg_human_bladder", "human"),
        "mouse_muscle_tibia_01": ("muscle", "nuinsseg_mouse_muscle_tibia", "mouse"),
        "human_salivory_gland_01": ("salivary gland", "nuinsseg_human_salivory_gland", "human"),
    }


def test_ebhi_seg_is_read_however_a_label_is_stored_and_no_case_is_torn(published):
    samples = samples_of(published, "ebhi_seg")
    assert {name: s.mask is not None and counts(s.mask) for name, s in samples.items()} == {
        "GT2001837-1-400-001_1": {1: 400},
        "GTXC2014129-2-400-001_2": {2: 400},
        "GT2000000-1-400-001_4": False,
        "GT2001837-1-400-001_4": {4: 400},
        "GTxc2014129-3-400-001_6": {6: 400},
    }
    assert samples["GTXC2014129-2-400-001_2"].group == samples["GTxc2014129-3-400-001_6"].group
    assert samples["GT2001837-1-400-001_1"].group == samples["GT2001837-1-400-001_4"].group == "GT2001837"
    assert samples["GT2000000-1-400-001_4"].label == "normal colon mucosa"


def test_converted_nuclei_are_the_truth_that_training_sees(published, tmp_path):
    convert("monuseg", published("monuseg"), tmp_path / "monuseg")
    for triple in triples(load_items(tmp_path / "monuseg"), ["nucleus"]):
        mask, ids = truth(triple)
        assert mask.sum() == 55
        assert sorted(np.unique(ids).tolist()) == [0, 1, 2, 3]


def test_the_rest_of_a_row_of_samples_is_counted(published):
    samples = source("consep").read(published("consep"))
    assert len(samples) == 3
    next(samples)
    assert (len(samples), len(list(samples)), len(samples)) == (2, 2, 0)


def test_an_unknown_source_is_told_with_the_known_ones():
    with pytest.raises(InputError, match="no source named 'camelyon'; there are bcss, consep"):
        source("camelyon")


def test_every_source_states_paper_and_licence():
    for name in SOURCES:
        assert source(name).PAPER
        assert source(name).LICENCE
        assert "et al." in source(name).__doc__
