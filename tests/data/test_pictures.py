"""Every kind of picture that people hand in: the right pixels, or one line with the mend."""

import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.readers.pillow import PICTURE_LIMIT_PX
from slidekick.data.slide import read_roi

RGB = np.zeros((32, 64, 3), np.uint8)  # squares that fall on JPEG's blocks
RGB[:16, :32] = (200, 60, 120)
RGB[16:, 32:] = (250, 250, 40)


def difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("rgb.png", "RGB", 0),
        ("rgb.jpg", "RGB", 3),
        ("rgb.tif", "RGB", 0),
        ("rgb.bmp", "RGB", 0),
        ("palette.png", "P", 0),
        ("palette.gif", "P", 0),
        ("cmyk.tif", "CMYK", 1),
        ("cmyk.jpg", "CMYK", 3),
    ],
)
def test_colour_pictures_come_out_as_their_colours(tmp_path, name, mode, tolerance):
    picture = Image.fromarray(RGB)
    picture = picture.quantize(8) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / name, **({"subsampling": 0} if name.endswith("jpg") else {}))
    pixels = read_roi(tmp_path / name).pixels
    assert pixels.dtype == np.uint8
    assert difference(pixels, RGB) <= tolerance


def test_grey_and_one_bit_pictures_come_out_as_three_equal_channels(tmp_path):
    grey = Image.fromarray(RGB).convert("L")
    grey.save(tmp_path / "grey.png")
    bits = Image.fromarray((RGB[:, :, 0] > 100).astype(np.uint8) * 255).convert("1")
    bits.save(tmp_path / "bits.png")
    assert np.array_equal(read_roi(tmp_path / "grey.png").pixels, np.asarray(grey.convert("RGB")))
    assert np.array_equal(read_roi(tmp_path / "bits.png").pixels[:, :, 1], (RGB[:, :, 0] > 100) * 255)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_is_scaled_by_its_full_range(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert read_roi(tmp_path / name).pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_16_bit_colour_is_scaled_to_8(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), RGB[:, :, ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_roi(tmp_path / "deep.png").pixels, RGB)


def test_transparency_lies_over_white(tmp_path):
    alpha = np.zeros((32, 64), np.uint8)
    alpha[:, :32] = 255
    alpha[:16, 32:] = 51  # a fifth
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "alpha.png")
    pixels = read_roi(tmp_path / "alpha.png").pixels
    assert np.array_equal(pixels[:, :32], RGB[:, :32])
    assert difference(pixels[:16, 32:], np.full((16, 32, 3), 204)) <= 1  # black at a fifth over white
    assert (pixels[16:, 32:] == 255).all()


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif"])
def test_exif_orientation_is_followed(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    kwargs = {"tiffinfo": {0x0112: 6}} if name.endswith("tif") else {"exif": exif, "subsampling": 0}
    Image.fromarray(RGB).save(tmp_path / name, **kwargs)
    roi = read_roi(tmp_path / name)
    assert (roi.region.width, roi.region.height) == (32, 64)
    assert difference(roi.pixels, np.rot90(RGB, -1)) <= (3 if name.endswith("jpg") else 0)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height grey pixels and holds none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_000, 40_000])
def test_a_bomb_is_refused_for_its_size_before_a_pixel_is_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    assert side * side > PICTURE_LIMIT_PX
    with pytest.raises(InputError, match=r"bomb\.png: .* limit of 150 million pixels .* tiled pyramidal"):
        read_roi(tmp_path / "bomb.png")


def broken(folder, name: str):
    """The file `name` with the fault that its name says."""
    path = folder / name
    buffer = folder / f"whole{path.suffix}"
    if name.startswith("cut"):
        noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
        Image.fromarray(noise).save(buffer)
        content = buffer.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif name.startswith("moving"):
        frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif name.startswith("float"):
        Image.fromarray(RGB[:, :, 0].astype(np.float32)).save(path)
    elif name.startswith("wide"):
        Image.fromarray(RGB[:, :, 0].astype(np.int32)).save(path)
    elif name.startswith("text"):
        path.write_text("no picture\n")
    elif name.startswith("empty"):
        path.touch()
    elif name.startswith("folder"):
        path.mkdir()
    elif name.startswith("pipe"):
        os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.png", "no such file; check the path"),
        ("folder.png", "is a folder; give one picture"),
        ("empty.png", r"is empty \(0 bytes\); copy it again"),
        ("text.png", "no picture or slide known here; give one of PNG"),
        ("text.svs", "no picture or slide known here; give one of PNG"),
        ("cut.jpg", "damaged or cut short; copy or export it again"),
        ("cut.png", "damaged or cut short; copy or export it again"),
        ("cut.tif", "damaged or cut short; copy or export it again"),
        ("moving.gif", "holds 2 frames or pages; save the one you mean"),
        ("moving.png", "holds 2 frames or pages; save the one you mean"),
        ("moving.tif", "holds 2 frames or pages; save the one you mean"),
        ("moving.webp", "holds 2 frames or pages; save the one you mean"),
        ("float.tif", "32-bit pixels have no known range; export it as 8-bit RGB"),
        ("wide.tif", "32-bit pixels have no known range; export it as 8-bit RGB"),
        ("pipe.png", "is no ordinary file; give a picture"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line_with_the_file_and_the_mend(tmp_path, name, told, recwarn):
    path = broken(tmp_path, name)
    with pytest.raises(InputError, match=told) as caught:
        read_roi(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["png", "jpg", "tif", "gif", "webp"]), data=st.data())
def test_any_damage_ends_in_pixels_or_in_one_line_and_never_on_stderr(tmp_path, capfd, kind, data):
    whole = tmp_path / f"whole.{kind}"
    Image.fromarray(RGB).save(whole, **({"compression": "tiff_adobe_deflate"} if kind == "tif" else {}))
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    broken_file = tmp_path / f"broken.{kind}"
    broken_file.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    told, pixels = "", RGB
    try:
        pixels = read_roi(broken_file).pixels
    except InputError as error:
        told = str(error)
    assert "\n" not in told
    assert (pixels.dtype, pixels.shape[2]) == (np.uint8, 3)
    assert capfd.readouterr() == ("", "")


def test_a_tiff_whose_strips_lie_nowhere_leaves_stderr_to_us(tmp_path, capfd):
    path = tmp_path / "strips.tif"
    Image.fromarray(RGB).save(path, compression="tiff_adobe_deflate")
    content = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", content, entry) == (273,):  # StripOffsets
            struct.pack_into("<I", content, entry + 8, 0xFFFFFF)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or cut short"):
        read_roi(path)
    assert capfd.readouterr() == ("", "")


def test_a_path_with_a_null_byte_is_told_and_not_crashed_on():
    with pytest.raises(InputError, match=r"no such file|no valid path"):
        read_roi("a\0b.png")
