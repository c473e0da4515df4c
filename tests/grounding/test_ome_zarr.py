"""OME-Zarr as it lies on disk, read back with zarr alone; the rules are those of the specification, version 0.5."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slidekick.data.errors import InputError, OutputError
from slidekick.data.slide import Region, Roi
from slidekick.grounding import ome_zarr
from slidekick.grounding.finding import Finding
from slidekick.grounding.ome_zarr import write_ome_zarr
from slidekick.grounding.palette import PALETTE


def picture(shape, downsample=(1, 1), corner=(0, 0), mpp=(0.5, 0.25)) -> Roi:
    height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Roi(pixels, mpp, Region(*corner, width * downsample[0], height * downsample[1]), "slide.svs")


def nuclei(labels: np.ndarray) -> Finding:
    return Finding("nucleus", labels > 0, 0.9, 0.75, labels)


@settings(deadline=None, max_examples=25)
@given(
    labels=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 70_000))
)
def test_picture_and_labels_come_back_the_same(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("zarr") / "out.ome.zarr"
    roi = picture(labels.shape)
    findings = [nuclei(labels), Finding("tumour stroma", labels > 9, 0.8, 1), Finding("gland", labels < 0, 0, 0)]
    assert write_ome_zarr(path, findings, roi) == path
    root = zarr.open_group(path, mode="r")
    assert np.array_equal(root["0"][:].transpose(1, 2, 0), roi.pixels)
    found = {"nucleus": labels, "tumour-stroma": labels > 9}
    found = {name: wanted for name, wanted in found.items() if wanted.any()}
    if not found:
        assert "labels" not in root
        return
    assert root["labels"].attrs["ome"] == {"version": "0.5", "labels": list(found)}
    for name, wanted in found.items():
        array = root[f"labels/{name}/0"]
        assert np.array_equal(array[0], wanted)
        assert array.dtype.kind == "u"


def test_label_images_have_the_picture_s_levels_axes_and_places(tmp_path, monkeypatch):
    monkeypatch.setattr(ome_zarr, "SMALLEST", 8)
    labels = np.zeros((21, 30), np.int32)
    labels[4:9, 4:9], labels[10:20, 10:20] = 3, 7
    roi = picture(labels.shape, (4, 4), (100, 200), mpp=(1.0, 2.0))
    root = zarr.open_group(write_ome_zarr(tmp_path / "a.zarr", [nuclei(labels)], roi), mode="r")
    for group in (root, root["labels/nucleus"]):
        (scales,) = group.attrs["ome"]["multiscales"]
        assert [axis["name"] for axis in scales["axes"]] == ["c", "y", "x"]
        assert [axis.get("unit") for axis in scales["axes"]] == [None, "micrometer", "micrometer"]
        assert [dataset["path"] for dataset in scales["datasets"]] == ["0", "1", "2"]
        for level, dataset in enumerate(scales["datasets"]):
            scale, translation = dataset["coordinateTransformations"]
            assert scale == {"type": "scale", "scale": [1, 2 * 2**level, 1 * 2**level]}
            # µm from the centre of the slide's first pixel (0.25 × 0.5 µm) to that of the first here
            centre = [0, 200 * 0.5 + 2**level - 0.25, 100 * 0.25 + 2**level / 2 - 0.125]
            assert translation == {"type": "translation", "translation": centre}
            assert group[dataset["path"]].shape[1:] == ((21, 30), (11, 15), (6, 8))[level]
            assert group[dataset["path"]].metadata.dimension_names == ("c", "y", "x")
    assert np.array_equal(root["labels/nucleus/1"][0], labels[::2, ::2])
    assert set(np.unique(root["labels/nucleus/2"][:])) == {0, 3, 7}, "numbers are never mixed"
    assert root["1"][0, 0, 0] == round(float(roi.pixels[:2, :2, 0].mean()) + 1e-9)


def test_without_a_scale_the_unit_is_the_picture_s_pixel(tmp_path):
    roi = picture((300, 20), (4, 4), (100, 200), mpp=None)
    root = zarr.open_group(write_ome_zarr(tmp_path / "a.zarr", [], roi), mode="r")
    (scales,) = root.attrs["ome"]["multiscales"]
    assert all("unit" not in axis for axis in scales["axes"])
    assert [d["coordinateTransformations"][0]["scale"] for d in scales["datasets"]] == [[1, 1, 1], [1, 2, 2]]
    assert [d["coordinateTransformations"][1]["translation"] for d in scales["datasets"]] == [
        [0, 50, 25],
        [0, 50.5, 25.5],
    ]


def test_labels_tell_colours_classes_and_source(tmp_path):
    labels = np.arange(12, dtype=np.int32).reshape(3, 4)
    findings = [nuclei(labels), Finding("stroma", labels > 3, 0.8, 1)]
    root = zarr.open_group(write_ome_zarr(tmp_path / "a.zarr", findings, picture((3, 4))), mode="r")
    said = root["labels/nucleus"].attrs["ome"]["image-label"]
    assert (said["version"], said["source"]) == ("0.5", {"image": "../../"})
    assert [colour["label-value"] for colour in said["colors"]] == list(range(1, 12))
    assert said["colors"][0]["rgba"] == [*PALETTE[0], 255]
    assert said["colors"][1]["rgba"] != said["colors"][0]["rgba"], "touching objects stay apart"
    assert said["properties"][3] == {"label-value": 4, "class": "nucleus"}
    assert root["labels/nucleus"].attrs["slidekick"]["presence"] == 0.75
    region = root["labels/stroma"].attrs["ome"]["image-label"]
    assert region["colors"] == [{"label-value": 1, "rgba": [*PALETTE[1], 255]}]
    assert json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["zarr_format"] == 3


def test_only_what_was_written_here_is_replaced_and_a_failure_leaves_it(tmp_path, monkeypatch):
    path = write_ome_zarr(tmp_path / "a.zarr", [nuclei(np.ones((3, 4), np.int32))], picture((3, 4)))
    write_ome_zarr(path, [], picture((5, 6)))
    assert zarr.open_group(path, mode="r")["0"].shape == (3, 5, 6)
    assert not (path / "labels").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ome_zarr, "_label_attributes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_ome_zarr(path, [nuclei(np.ones((3, 4), np.int32))], picture((3, 4)))
    assert zarr.open_group(path, mode="r")["0"].shape == (3, 5, 6)
    theirs = tmp_path / "theirs.zarr"
    zarr.create_group(theirs, attributes={"ome": {"version": "0.5"}})
    for place in (theirs, tmp_path):
        with pytest.raises(OutputError, match="is there already and was not written here"):
            write_ome_zarr(place, [], picture((3, 4)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr", "theirs.zarr"]


def test_without_the_package_the_mend_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(ome_zarr, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"install it with: pip install 'slidekick\[zarr\]'"):
        write_ome_zarr(tmp_path / "a.zarr", [], picture((3, 4)))
