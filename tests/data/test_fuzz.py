"""Damaged files of every kind give pixels or one line; the process survives and does not wait. `apps/bench/fuzz.py`."""

import os
import struct
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from slide_files import write_dicom

from slidekick.apps.bench import fuzz
from slidekick.data.errors import InputError
from slidekick.data.features import read_coords
from slidekick.data.readers import openslide, tiff
from slidekick.data.slide import open_slide

FIXTURES = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[3] / "shared" / "data")) / "wsi_fixtures"
MADE, REAL = 120, 99  # inputs: ten of each file made here, three of each that a scanner wrote


def grains(side: int) -> np.ndarray:
    """uint8 (side, side, 3): noise, which no compression shortens."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def write_slide_with_table(path: Path) -> int:
    """A JPEG level with a table of its frames; where the table's first entry lies in the file."""
    import imagecodecs
    from pydicom.encaps import encapsulate

    write_dicom(path, grains(128))
    data = pydicom.dcmread(path)
    frames = np.frombuffer(data.PixelData, np.uint8).reshape(4, 64, 64, 3)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    data.PhotometricInterpretation = "YBR_FULL_422"
    data.PixelData = encapsulate([imagecodecs.jpeg8_encode(frame) for frame in frames], has_bot=True)
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path.read_bytes().index(bytes.fromhex("fe ff 00 e0 10 00 00 00")) + 8


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[Path]:
    """A small sound file of every format that can be written here."""
    folder = tmp_path_factory.mktemp("sound")
    pixels = np.random.default_rng(1).integers(0, 256, (160, 200, 3), np.uint8)
    for name in ("a.png", "a.jpg", "a.bmp", "a.webp", "a.jp2", "plain.tif"):
        Image.fromarray(pixels).save(folder / name)
    for name, compression in (("lzw.tif", "lzw"), ("jpeg.tif", "jpeg")):
        with tifffile.TiffWriter(folder / name) as writer:
            for step in (1, 2):
                part = np.ascontiguousarray(pixels[::step, ::step])
                writer.write(part, tile=(64, 64), photometric="rgb", compression=compression, metadata=None)
    tifffile.imwrite(folder / "a.ome.tif", pixels[:, :, 0][None].repeat(2, 0), tile=(64, 64), metadata={"axes": "CYX"})
    head = "Aperio Image Library v11\r\n200x160 [0,0 200x160] (64x64)|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(folder / "a.svs", pixels, tile=(64, 64), compression="zlib", photometric="rgb", description=head)
    write_dicom(folder / "a.dcm", grains(128))
    with h5py.File(folder / "a.h5", "w") as file:
        file["features"], file["coords"] = np.ones((9, 32), np.float32), np.arange(18).reshape(9, 2)
        file["coords"].attrs.update({"patch_size": 256, "name": "a"})
    return fuzz.files_of(folder)


def assert_all_held(cases):
    assert [fuzz.as_text([case]) for case in cases if not case.held] == []


def test_the_files_are_sound_before_they_are_damaged(made):
    assert len(made) == 12
    assert [(path.name, fuzz.attempt(path)) for path in made if fuzz.attempt(path)[0] != "read"] == []


def test_damaged_files_made_here_give_pixels_or_one_line(made):
    cases = list(fuzz.run_cases(made, range(MADE), seed=1))
    assert_all_held(cases)
    assert {case.outcome for case in cases} == {"read", "refused"}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"NO SLIDES OF SCANNERS at {FIXTURES}: none was damaged")
def test_damaged_files_of_scanners_give_pixels_or_one_line():
    files = fuzz.files_of(FIXTURES / "files")
    assert_all_held(list(fuzz.run_cases(files, range(REAL), seed=1)))


def test_the_same_seed_and_number_damage_alike(made):
    content = made[0].read_bytes()
    assert fuzz.damaged(content, 3, 5) == fuzz.damaged(content, 3, 5)
    assert len({fuzz.damaged(content, 3, number)[0] for number in range(30)}) > 25


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("import os; os.abort()", "crashed"), ("while True: pass", "hung"), ("1 / 0", "raised")],
)
def test_what_dies_hangs_or_raises_is_named_and_the_next_input_is_read(made, tmp_path, monkeypatch, code, outcome):
    """A reader that falls over, put in the place of ours in the process that reads."""
    (tmp_path / "sitecustomize.py").write_text(
        "import slidekick.apps.bench.fuzz as fuzz\n"
        "read = fuzz._read\n"
        f"def falls(path):\n    if path.stat().st_size < 9:\n        {code}\n    read(path)\n"
        "fuzz._read, fuzz.PATIENCE_S = falls, 0.5\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    short = tmp_path / "short.png"
    short.write_bytes(b"12345678")
    with fuzz._Process() as process:
        assert process.tried(short)[0] == outcome
        assert process.tried(made[0])[0] == "read"


def test_a_name_with_a_line_end_in_an_h5_file_stays_in_one_line(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["no\ncoords"] = [1]
    with pytest.raises(InputError, match=r"holds no coords \(nocoords\)") as told:
        read_coords(tmp_path / "a.h5")
    assert "\n" not in str(told.value)


def test_a_text_attribute_whose_reference_is_damaged_is_not_followed(tmp_path):
    """HDF5 went round in circles in the heap where texts lie."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = np.zeros((1, 2), np.int64)
        file["coords"].attrs.update({"name": "a" * 31, "patch_size": 256})
    content = path.read_bytes()
    heap = content.index(b"GCOL")
    path.write_bytes(content[: heap + 8] + struct.pack("<Q", 2**40) + content[heap + 16 :])
    assert read_coords(path).attributes == {"patch_size": 256}


@pytest.mark.parametrize("offset", [2**32 - 256, 2**24, 12, 0])
def test_a_dicom_slide_whose_table_of_frames_points_astray_is_not_given_to_openslide(tmp_path, offset):
    """OpenSlide's DICOM library went there and took the process with it."""
    path = tmp_path / "a.dcm"
    table = write_slide_with_table(path)
    content = bytearray(path.read_bytes())
    with open_slide(path) as slide:
        sound = slide.thumbnail(128)
    content[table + 8 : table + 12] = struct.pack("<I", offset)  # of the third of four frames
    path.write_bytes(content)
    assert openslide.support(path) == 0
    with fuzz._Process() as process:
        assert process.tried(path)[0] == "read"  # the frames themselves are whole
    with open_slide(path) as slide:
        assert slide.reader == "dicom"
        np.testing.assert_array_equal(slide.thumbnail(128), sound)


def patched(path: Path, tag: str, page: int, value: int) -> None:
    """Another number in a tag of a page of a TIFF."""
    with tifffile.TiffFile(path) as file:
        one = file.pages[page].tags[tag]
        place, size = one.valueoffset, 2 if one.dtype.name == "SHORT" else 4
    content = bytearray(path.read_bytes())
    content[place : place + size] = value.to_bytes(size, "little")
    path.write_bytes(content)


def test_a_tiff_whose_tiles_are_said_to_be_huge_is_not_given_to_openslide(tmp_path):
    """OpenSlide asked for a terabyte and ended the process."""
    for name, tags in (("size", ("TileWidth", "TileLength")), ("bytes", ("TileByteCounts",))):
        path = tmp_path / f"{name}.tif"
        pixels = pixels_of(400)
        tifffile.imwrite(path, pixels, tile=(400, 400), photometric="rgb", metadata=None)  # 480 kB: counts are LONG
        assert openslide.support(path) > 0
        for tag in tags:
            patched(path, tag, 0, 65520 if name == "size" else 2**31 - 16)
        assert openslide.support(path) == 0
        with fuzz._Process() as process:
            assert process.tried(path)[0] == "refused"


def test_levels_of_different_pixels_are_refused(tmp_path):
    """A second level of one bit came out as truth values, which no picture is made of."""
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as writer:
        for side, tile in ((1024, (64, 64)), (128, None), (512, (64, 64))):  # level, thumbnail, level
            text = f"Aperio Image Library v11\r\n{side}x{side}|AppMag = 20|MPP = 0.5"
            writer.write(pixels_of(side), tile=tile, photometric="rgb", description=text, metadata=None)
    assert fuzz.attempt(path)[0] == "read"
    with tifffile.TiffFile(path) as file:
        place = file.pages[2].tags["BitsPerSample"].valueoffset
    content = bytearray(path.read_bytes())
    content[place : place + 6] = struct.pack("<3H", 1, 1, 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match="different kinds of pixels"):
        tiff.open_file(path)
    with fuzz._Process() as process:
        assert process.tried(path)[0] in ("read", "refused")


def pixels_of(side: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (side, side, 3), np.uint8)
