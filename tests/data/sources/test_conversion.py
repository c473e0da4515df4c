"""The converted folder: split by group, whole or not there, made again the same, cut into tiles where asked."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import InputError, OutputError
from slidekick.data.items import SPLITS, load_items
from slidekick.data.ontology import load_ontology
from slidekick.data.sources import convert
from slidekick.data.sources.conversion import _cuts, split_groups


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_groups_fall_about_70_15_15():
    found = Counter(split_groups({f"slide {number}": set() for number in range(20_000)}).values())
    assert [found[split] / 20_000 for split in SPLITS] == pytest.approx([0.70, 0.15, 0.15], abs=0.01)


def test_a_groups_split_never_changes():
    """Pinned: a patient of a converted set must not wander from train to test with a new version."""
    splits = split_groups({f"patient_{number}": set() for number in range(1, 17)})
    assert [int(name.split("_")[1]) for name, split in splits.items() if split == "test"] == [4, 5, 6]
    assert [int(name.split("_")[1]) for name, split in splits.items() if split == "val"] == [1, 8, 10, 14]


@given(st.dictionaries(st.text(), st.sets(st.sampled_from(SPLITS)), max_size=8))
def test_published_splits_are_kept_and_torn_groups_held_out(published):
    splits = split_groups(published)
    assert set(splits) == set(published)
    for group, held in published.items():
        if "test" in held:
            assert splits[group] == "test"
        elif "val" in held:
            assert splits[group] == "val"
        elif held == {"train"}:
            assert splits[group] in ("train", "val")
            if any("val" in others for others in published.values()):
                assert splits[group] == "train"


def test_part_of_a_published_train_becomes_val_where_none_is_named():
    found = Counter(split_groups({f"slide {number}": {"train"} for number in range(10_000)}).values())
    assert found["val"] / 10_000 == pytest.approx(0.15, abs=0.015)
    assert found["test"] == 0


@given(st.integers(1, 3000), st.integers(64, 1024))
def test_tiles_cover_a_side_without_gap_and_are_near_equal(length, side):
    cuts = _cuts(length, side)
    assert (cuts[0][0], cuts[-1][1]) == (0, length)
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    sizes = [stop - start for start, stop in cuts]
    assert max(sizes) <= side
    assert max(sizes) - min(sizes) <= 1


def test_the_folder_tells_source_paper_licence_and_counts(published, tmp_path):
    about = convert("ebhi_seg", published("ebhi_seg"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "source.json").read_text()) == about
    assert (about["schema"], about["source"], about["licence"]) == ("slidekick.convert/1", "ebhi_seg", "CC BY 4.0")
    assert (about["items"], about["without_labels"]) == (5, 1)
    assert sum(part["groups"] for part in about["splits"].values()) == 3
    assert about["unknown_classes"] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images",
        "items.jsonl",
        "masks",
        "source.json",
    ]


def test_classes_that_the_hierarchy_does_not_know_are_told(published, tmp_path):
    about = convert("bcss", published("bcss"), tmp_path / "out")
    assert set(about["unknown_classes"]) < set(about["classes"].values())
    assert {"tumour", "stroma", "blood vessel"}.isdisjoint(about["unknown_classes"])
    assert not any(load_ontology().of_class(kind) for kind in about["unknown_classes"])


def test_a_second_conversion_is_the_same_to_the_byte_and_replaces_the_first(published, tmp_path):
    folder = published("consep")
    convert("consep", folder, tmp_path / "a")
    convert("consep", folder, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    next(folder.rglob("Images/test_1.png")).unlink()
    convert("consep", folder, tmp_path / "a")
    assert len(load_items(tmp_path / "a")) == 2
    assert not (tmp_path / "a" / "images" / "test_1.png").exists()


def test_a_break_leaves_nothing_behind_and_the_former_set_as_it_was(published, tmp_path):
    folder, out = published("consep"), tmp_path / "sets" / "consep"
    last = next(folder.rglob("train_2.mat"))
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"train_2\.mat: not a whole MATLAB file"):
        convert("consep", folder, out)
    assert list(out.parent.iterdir()) == []
    last.write_bytes(whole)
    convert("consep", folder, out)
    before = contents(out)
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="train_2"):
        convert("consep", folder, out)
    assert contents(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["consep"]


def test_a_folder_that_holds_something_else_is_left_alone(published, tmp_path):
    folder = published("consep")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    convert("glas", published("glas"), tmp_path / "glas")
    (tmp_path / "empty").mkdir()
    for taken in ("mine", "glas"):
        before = contents(tmp_path / taken)
        with pytest.raises(OutputError, match=f"{taken}: is there already and was not written here"):
            convert("consep", folder, tmp_path / taken)
        assert contents(tmp_path / taken) == before
    assert convert("consep", folder, tmp_path / "empty")["items"] == 3


def test_the_converted_set_may_not_lie_in_the_data_set(published):
    folder = published("consep")
    with pytest.raises(InputError, match="lies in the data set's own folder"):
        convert("consep", folder, folder / "converted")


def test_large_pictures_are_cut_into_tiles_of_one_group_and_empty_ones_left_out(published, tmp_path):
    folder = published("bcss")
    convert("bcss", folder, tmp_path / "whole")
    about = convert("bcss", folder, tmp_path / "tiles", tile=64)
    assert about["tile"] == 64
    name = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500"
    tiles = {item.id: item for item in load_items(tmp_path / "tiles") if item.id.startswith(name)}
    # 150 x 80 in 3 columns of 50 and 2 rows of 40; the lower right one holds nothing that anybody judged
    assert sorted(tiles) == [f"{name}_r0c0", f"{name}_r0c1", f"{name}_r0c2", f"{name}_r1c0", f"{name}_r1c1"]
    assert {tile.group for tile in tiles.values()} == {"TCGA-A1-A0SK"}
    assert len({tile.split for tile in tiles.values()}) == 1
    (whole,) = (item for item in load_items(tmp_path / "whole") if item.id == name)
    for kind in ("image", "mask"):
        window = np.asarray(Image.open(getattr(whole, kind)))[40:80, 50:100]
        np.testing.assert_array_equal(np.asarray(Image.open(getattr(tiles[f"{name}_r1c1"], kind))), window)
    with pytest.raises(InputError, match="tile 8 is too small; give 64 px or more"):
        convert("bcss", folder, tmp_path / "dust", tile=8)
