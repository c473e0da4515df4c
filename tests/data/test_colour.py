"""Colours under an ICC profile: untouched unless asked for, then as the profile says."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from slidekick.data.colour import srgb_from
from slidekick.data.errors import InputError
from slidekick.data.slide import Region, open_slide


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """sRGB with the red primary's place given to blue and the other way about: red numbers mean blue."""
    content = bytearray(srgb())
    entries = {content[at : at + 4].decode(): at for at in range(132, 132 + 12 * 20, 12)}
    red, blue = entries["rXYZ"] + 4, entries["bXYZ"] + 4
    content[red : red + 8], content[blue : blue + 8] = content[blue : blue + 8], content[red : red + 8]
    return bytes(content)


def slide_with(path, icc):
    """A tiled TIFF whose left half is red, the right half grey, under a profile."""
    pixels = np.full((128, 256, 3), 128, np.uint8)
    pixels[:, :128] = (220, 20, 20)
    extra = [(34675, 7, len(icc), icc, True)] if icc else []
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib", extratags=extra)
    return pixels


def test_colours_are_as_in_the_file_unless_asked_for(tmp_path):
    path = tmp_path / "a.tif"
    pixels = slide_with(path, swapped())
    with open_slide(path) as slide:
        assert slide.header.icc == swapped()
        np.testing.assert_array_equal(slide.thumbnail(256), pixels)
    with open_slide(path, colour="srgb") as slide:
        for shown in (slide.thumbnail(256), slide.roi(Region(0, 0, 256, 128)).pixels):
            red, _, blue = shown[60, 60].astype(int)
            assert blue > 150 > 100 > red  # what the file calls red is shown as blue
            assert np.abs(shown[60, 200].astype(int) - 128).max() <= 2  # grey stays grey
        beyond = slide.read(Region(-64, 0, 128, 128), (128, 128))
        assert (beyond[:, :64] == 255).all()  # outside the slide is white, whatever the profile
        assert beyond[60, 100, 2] > 150


def test_its_own_colours_change_by_a_rounding_at_most():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert np.abs(srgb_from(srgb(), "a")(pixels).astype(int) - pixels).max() <= 2


def test_a_picture_and_a_file_without_a_profile(tmp_path):
    slide_with(tmp_path / "a.tif", None)
    with open_slide(tmp_path / "a.tif") as plain, open_slide(tmp_path / "a.tif", colour="srgb") as asked:
        assert plain.header.icc is None
        np.testing.assert_array_equal(plain.thumbnail(99), asked.thumbnail(99))
    Image.new("RGB", (40, 40), (220, 20, 20)).save(tmp_path / "a.png", icc_profile=swapped())
    with open_slide(tmp_path / "a.png", colour="srgb") as slide:
        assert slide.thumbnail(40)[5, 5, 2] > 150
    Image.new("RGB", (40, 40), (9, 9, 9)).convert("L").save(tmp_path / "b.png", icc_profile=swapped())
    with open_slide(tmp_path / "b.png", colour="srgb") as slide:
        assert slide.header.icc is None  # a profile of RGB is none of a grey picture's


@pytest.mark.parametrize("icc", [b"no profile", swapped()[:200], b"\0" * 4000])
def test_a_broken_profile_is_told_only_where_it_is_asked_for(tmp_path, icc):
    path = tmp_path / "a.tif"
    slide_with(path, icc)
    with open_slide(path) as slide:
        assert slide.thumbnail(64).shape == (32, 64, 3)
    with pytest.raises(InputError, match=r"a\.tif: its colour profile is damaged .* \(no --icc\)"):
        open_slide(path, colour="srgb")


def test_a_profile_of_other_colours_and_a_word_that_is_none_are_told(tmp_path):
    lab = io.BytesIO(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()).getvalue()
    with pytest.raises(InputError, match="is of 'Lab' colours"):
        srgb_from(lab, "a.tif")
    slide_with(tmp_path / "a.tif", None)
    with pytest.raises(InputError, match="'adobe' is not known"):
        open_slide(tmp_path / "a.tif", colour="adobe")
