"""Readers against arrays written here and, where they lie beside the repository, against slides of real scanners."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import write_dicom

from slidekick.data.errors import InputError
from slidekick.data.readers import dicom, openslide, tiff
from slidekick.data.slide import Region, open_slide

FIXTURES = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "wsi_fixtures"
real = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"NO SLIDES OF SCANNERS at {FIXTURES}: formats were not read")

# What the list beside the fixtures cannot know: these hold no pixels, or none that can be trusted.
REFUSED = {
    "dicom_label_only": "label or overview",
    "dicom_annotations": "no picture or slide",
    "dicom_segmentation": "no picture or slide",
    "olympus_vsi_head": "holds 7 frames",
    "broken_svs_random": "no picture or slide",
    "broken_tiff_compression": "cannot open it",
    "broken_tiff_zero": "no picture or slide",
    "broken_truncated": "no picture or slide",
    "broken_empty": "is empty",
    "broken_text_renamed": "no picture or slide",
}
DAMAGED = ("broken_svs_tiles", "broken_scrambled_tiles")
SCALES_OF_PRINT = ("generic_tiff_boxes", "generic_tiff_zstd")  # 72 dpi


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def listed() -> list[dict]:
    file = FIXTURES / "items.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_part_of_a_tiled_file_is_what_was_written_there(tmp_path_factory, data):
    height, width = (data.draw(st.integers(1, 200)) for _ in range(2))
    kind = data.draw(st.sampled_from(["tiled", "planar", "strips", "grey"]))
    array = pixels(height, width)
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    options = {"tile": (data.draw(st.sampled_from([16, 48])), 32), "compression": "deflate"}
    if kind == "strips":
        options = {"rowsperstrip": data.draw(st.integers(1, height)), "compression": "lzw"}
    if kind == "planar":
        tifffile.imwrite(path, np.moveaxis(array, 2, 0), photometric="rgb", planarconfig="separate", **options)
    elif kind == "grey":
        array = np.repeat(array[:, :, :1], 3, axis=2)
        tifffile.imwrite(path, array[:, :, 0], photometric="minisblack", **options)
    else:
        tifffile.imwrite(path, array, photometric="rgb", **options)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    reader = tiff.open_file(path)
    np.testing.assert_array_equal(reader.read(0, x, y, w, h), array[y : y + h, x : x + w])
    reader.close()


def test_a_scale_may_differ_between_the_axes_and_levels_lie_in_subifds(tmp_path):
    path, array = tmp_path / "a.ome.tif", pixels(256, 512)
    with tifffile.TiffWriter(path, ome=True) as file:
        sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
        file.write(array, subifds=1, tile=(64, 64), metadata={"axes": "YXS"} | sizes, photometric="rgb")
        file.write(array[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb")
    with open_slide(path) as slide:
        assert slide.mpp == (0.25, 0.5)
        assert [(level.width, level.height) for level in slide.levels] == [(512, 256), (256, 128)]
        roi = slide.roi(Region(0, 0, 512, 256, 0.5))
        assert roi.pixels.shape == (256, 256, 3)
        assert roi.mpp == (0.5, 0.5)


def test_a_tile_that_is_not_there_is_white_and_one_that_is_damaged_is_an_error(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(64, 96), tile=(32, 32), compression="deflate", photometric="rgb")
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["TileByteCounts"]
        offsets, counts = file.pages[0].dataoffsets, list(file.pages[0].databytecounts)
        place = tag.valueoffset
    content = bytearray(path.read_bytes())
    size = 2 if tag.dtype.name == "SHORT" else 4
    content[place : place + size] = bytes(size)
    content[offsets[4] : offsets[4] + counts[4]] = bytes([7] * counts[4])
    path.write_bytes(content)
    reader = tiff.open_file(path)
    assert (reader.read(0, 0, 0, 32, 32) == 255).all()
    with pytest.raises(InputError, match="tile 4 of level 0 cannot be decoded") as told:
        reader.read(0, 20, 20, 60, 40)
    assert "\n" not in str(told.value)


def test_channels_are_named_and_shown_in_colours(tmp_path):
    path = tmp_path / "a.ome.tif"
    array = np.zeros((2, 128, 128), np.uint16)
    array[0, :64], array[1, :, 64:] = 9000, 300
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD8"]}}
    tifffile.imwrite(path, array, tile=(64, 64), metadata=metadata, photometric="minisblack")
    with open_slide(path) as slide:
        assert slide.header.channels == ("DAPI", "CD8")
        shown = slide.thumbnail(128)
    for y, x, colour in (
        (10, 10, (0, 0, 255)),
        (100, 100, (0, 255, 0)),
        (10, 100, (0, 255, 255)),
        (100, 10, (0, 0, 0)),
    ):
        assert tuple(shown[y, x]) == colour


def test_a_level_that_lacks_a_channel_is_refused(tmp_path):
    path = tmp_path / "a.ome.tif"
    array = np.zeros((2, 128, 128), np.uint16)
    tifffile.imwrite(path, array, tile=(64, 64), metadata={"axes": "CYX"}, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        pages = list(file.series[0].pages)
        for levels in ([pages, pages], [pages]):
            tiff._check_alike(path, levels)
        with pytest.raises(InputError, match=r"a\.ome\.tif: level 1 has 1 channels and level 0 has 2"):
            tiff._check_alike(path, [pages, pages[:1]])


def test_channels_laid_over_each_other_one_by_one_look_as_they_do_all_at_once(tmp_path):
    path = tmp_path / "a.ome.tif"
    array = np.random.default_rng(0).integers(0, 65536, (9, 64, 64), np.uint16)
    tifffile.imwrite(path, array, tile=(64, 64), metadata={"axes": "CYX"}, photometric="minisblack")
    low, high = np.percentile(array.reshape(9, -1).T, (1, tiff.BRIGHTEST), axis=0)
    colours = np.array([tiff.COLOURS[i % len(tiff.COLOURS)] for i in range(9)], float)
    expected = np.clip(np.clip((array.transpose(1, 2, 0) - low) / (high - low), 0, 1) @ colours, 0, 1) * 255
    with open_slide(path) as slide:
        shown = slide.thumbnail(64).astype(float)
    assert np.abs(shown - expected.round()).max() <= 1


def test_threads_read_the_same_at_once(tmp_path):
    path, array = tmp_path / "a.tif", pixels(512, 512)
    tifffile.imwrite(path, array, tile=(64, 64), compression="deflate", photometric="rgb")
    reader = tiff.open_file(path)
    places = [tuple(map(int, place)) for place in np.random.default_rng(1).integers(0, 400, (200, 2))]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda at: reader.read(0, *at, 100, 90), places))
    for (x, y), part in zip(places, read, strict=True):
        np.testing.assert_array_equal(part, array[y : y + 90, x : x + 100])


@real
@pytest.mark.parametrize("item", listed(), ids=lambda item: item["id"])
def test_what_scanners_wrote_opens_as_listed_or_is_refused_in_one_line(item):
    path = FIXTURES / item["file"]
    if item["id"] in REFUSED:
        with pytest.raises(InputError, match=REFUSED[item["id"]]) as told:
            open_slide(path)
        assert "\n" not in str(told.value)
        return
    with open_slide(path) as slide:
        if item["id"] in DAMAGED:
            with pytest.raises(InputError, match="cannot be decoded"):
                slide.thumbnail(256)
            return
        if "dimensions" in item:
            assert slide.dimensions == tuple(item["dimensions"])
        if item.get("mpp") and item["id"] not in SCALES_OF_PRINT:
            assert slide.mpp == pytest.approx((item["mpp"],) * 2, rel=1e-3)
        assert item.get("objective_power") in (None, slide.objective_power)
        assert set(slide.header.associated) == set(item.get("associated", slide.header.associated))
        assert bool(slide.header.channels) == (item["id"] in ("qptiff_tma", "if_tile_16bit"))
        seen = slide.thumbnail(128)
        assert max(seen.shape[:2]) <= 128
        assert seen.std() > 0 or item["tissue"] == "synthetic"


@real
@pytest.mark.parametrize("mpp", [0.499, 0.6, 1.0, 2.3, 8.0])
def test_readers_agree_at_any_scale(mpp):
    region = Region(300, 400, 1201, 901, mpp)
    files = (
        "generic_pyramid_cmu.tif",
        "ome_pyramid_cmu.ome.tif",
        "aperio_pyramid_cmu_labelled.svs",
        "dicom_pyramid_cmu",
    )
    shown = []
    for name in files:
        with open_slide(FIXTURES / "files" / name) as slide:
            shown.append(slide.roi(region).pixels.astype(float))
    with open_slide(FIXTURES / "files" / files[0]) as slide:
        slide._reader = openslide.open_file(FIXTURES / "files" / files[0])
        shown.append(slide.roi(region).pixels.astype(float))
    for other in shown[1:]:
        assert other.shape == shown[0].shape
        # OpenSlide places coarser levels to a fraction of a pixel; one whole pixel off would be more than 8.
        assert np.abs(other - shown[0]).mean() < 5


@real
def test_a_folder_is_one_dicom_slide_and_two_are_told(tmp_path):
    folder = FIXTURES / "files" / "dicom_pyramid_cmu"
    assert dicom.level_in(folder).name == "level0.dcm"
    for name in ("level0.dcm", "label.dcm"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with open_slide(tmp_path) as slide:
        assert slide.dimensions == (2220, 2967)
    (tmp_path / "other.dcm").write_bytes((FIXTURES / "files" / "dicom_bone_jpeg.dcm").read_bytes())
    with pytest.raises(InputError, match="several slides"):
        open_slide(tmp_path)


@pytest.mark.parametrize("empty", [True, False])
def test_a_file_in_a_folder_that_does_not_say_its_size_is_no_level(tmp_path, empty):
    import pydicom

    write_dicom(tmp_path / "whole.dcm", pixels(64, 64))
    data = pydicom.dcmread(tmp_path / "whole.dcm")
    data.SeriesInstanceUID = pydicom.uid.generate_uid()
    if empty:
        data.TotalPixelMatrixColumns = None
    else:
        del data.TotalPixelMatrixColumns
    pydicom.dcmwrite(tmp_path / "a.dcm", data)
    assert dicom.level_in(tmp_path).name == "whole.dcm"
    with open_slide(tmp_path) as slide:
        assert slide.dimensions == (64, 64)
    (tmp_path / "whole.dcm").unlink()
    with pytest.raises(InputError, match="is a folder"):
        open_slide(tmp_path)
