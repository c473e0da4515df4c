import json

import h5py
import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms

from slidekick.apps.cli import main
from slidekick.data.features import read_coords
from slidekick.data.slide import open_slide


def test_slide_info_tells_size_scale_and_levels(tmp_path, capsys):
    path = tmp_path / "scan.tif"
    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for side, kind in ((512, scale | {"description": "Patient Jane Doe"}), (256, {"subfiletype": 1})):
            pixels = np.full((side, 2 * side, 3), 200, np.uint8)
            writer.write(pixels, tile=(64, 64), compression="zlib", photometric="rgb", metadata=None, **kind)
    assert main(["slide", "info", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "Jane" not in out
    assert json.loads(out) == {
        "file": "scan.tif",
        "format": "generic-tiff",
        "reader": "tiff",
        "width": 1024,
        "height": 512,
        "mpp": [0.5, 0.5],
        "objective_power": None,
        "levels": [
            {"width": 1024, "height": 512, "downsample": 1.0, "tile": [64, 64]},
            {"width": 512, "height": 256, "downsample": 2.0, "tile": [64, 64]},
        ],
        "channels": [],
        "associated": [],
        "colour_profile": False,
        "stain": {"name": "unknown", "probability": 0.0, "likeliest": None},
    }
    assert main(["slide", "info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "0.5 x 0.5 µm per pixel" in text
    assert "0.512 x 0.256 mm" in text
    assert "Jane" not in text


def test_a_picture_without_a_scale_says_how_to_state_it(picture, capsys):
    assert main(["slide", "info", str(picture)]) == 0
    assert "unknown; state it with --mpp" in capsys.readouterr().out


@pytest.fixture
def scan(tmp_path):
    """Real tissue on glass at 0.5 µm, with a profile, a name in its description, and a label and a macro page."""
    pixels = np.full((1024, 1536, 3), 240, np.uint8)
    pixels[256:768, 256:768] = skimage.data.immunohistochemistry()[:, :, :3]
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "scan.svs"
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
        head = "Aperio Image Library v11\r\n1536x1024|AppMag = 20|MPP = 0.5|Patient = Jane Doe"
        profile = [(34675, 7, len(icc), icc, True)]
        writer.write(pixels, tile=(256, 256), description=head, extratags=profile, **options)
        for name in ("label", "macro"):
            text = f"Aperio Image Library\r\n{name} 64x64 Jane Doe"
            writer.write(np.zeros((64, 64, 3), np.uint8), description=text, subfiletype=9, **options)
    return path


def test_tiles_over_the_tissue_are_written_where_tissue_is(scan, tmp_path, capsys):
    out = tmp_path / "new" / "tiles.h5"
    assert main(["slide", "tiles", str(scan), "--size", "128", "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "slide": "scan.svs",
        "file": str(out),
        "tiles": facts["tiles"],
        "of": 96,
        "size_px": 128,
        "size_level0": [128, 128],
        "overlap_px": 0,
        "mpp": 0.5,
    }
    with open_slide(scan) as slide:
        grid = read_coords(out).grid(slide)
    assert 16 <= len(grid) == facts["tiles"] <= 36
    assert ((grid.coords >= 128) & (grid.coords <= 768)).all()
    assert b"Jane" not in out.read_bytes()
    with h5py.File(out) as file:
        assert file["coords"].attrs["name"] == "scan"
        assert str(tmp_path) not in str(dict(file["coords"].attrs))


def test_tiles_of_a_picture_without_a_scale_are_at_the_one_stated(picture, tmp_path, capsys):
    out = tmp_path / "tiles.h5"
    options = ["--mpp", "0.25", "--size", "32", "--least-tissue", "0", "--out", str(out)]
    assert main(["slide", "tiles", str(picture), *options]) == 0
    assert "of 6 tiles hold tissue (32 px at 0.25 µm)" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert file["coords"].attrs["patch_size_level0"] == 32


def test_tissue_is_written_as_mask_overlay_and_geojson(scan, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["slide", "tissue", str(scan), "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    mask = np.asarray(Image.open(facts["files"]["mask"]))
    assert mask.mean() / 255 == pytest.approx(facts["tissue_share"], abs=1e-3)
    assert facts["tissue_share"] == pytest.approx(512 * 512 / (1536 * 1024), rel=0.2)
    assert facts["tissue_mm2"] == pytest.approx(facts["tissue_share"] * 0.768 * 0.512, rel=0.02)
    collection = json.loads((out / "scan.tissue.geojson").read_text())
    assert [one["properties"]["classification"]["name"] for one in collection["features"]] == ["tissue"]
    assert sorted(path.name for path in out.iterdir()) == [
        "scan.tissue.geojson",
        "scan.tissue.overlay.png",
        "scan.tissue.png",
    ]
    assert all(b"Jane" not in path.read_bytes() for path in out.iterdir())


def test_a_thumbnail_is_written_with_colours_as_asked_for(scan, picture, tmp_path, capsys):
    out = tmp_path / "t.png"
    assert main(["slide", "thumbnail", str(scan), "--max", "300", "--icc", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["colours"] == "srgb"
    with Image.open(out) as shown:
        assert shown.size == (300, 200)
        assert "icc_profile" not in shown.info
        assert np.asarray(shown).min() > 10  # label and macro are black
    assert main(["slide", "thumbnail", str(picture), "--icc", "--out", str(out)]) == 0
    assert "holds no ICC profile" in capsys.readouterr().err


def test_quality_tells_tissue_and_focus(scan, picture, capsys):
    assert main(["slide", "quality", str(scan), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tiles_judged"] == 4
    assert 0.3 < facts["blur_um_median"] < 2
    assert facts["tissue_share"] > 0.1
    assert facts["pen_share"] == 0
    assert main(["slide", "quality", str(picture)]) == 2
    assert "--mpp" in capsys.readouterr().err
    assert main(["slide", "quality", str(picture), "--mpp", "0.5"]) == 0
    assert "cannot be judged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tiles", "--size", "0"], "tiles of 0 pixels"),
        (["tiles", "--overlap", "256"], "give a size above the overlap"),
        (["thumbnail", "--max", "0"], "give 1 or more"),
    ],
)
def test_what_cannot_be_meant_is_told_and_nothing_written(scan, tmp_path, capsys, arguments, told):
    out = tmp_path / "out"
    assert main(["slide", arguments[0], str(scan), *arguments[1:], "--out", str(out)]) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_a_share_that_is_none_and_a_folder_for_a_file_are_told(scan, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["slide", "tiles", str(scan), "--least-tissue", "2", "--out", str(tmp_path / "a.h5")])
    assert "'2' is no share" in capsys.readouterr().err
    assert main(["slide", "tiles", str(scan), "--out", str(tmp_path)]) == 2
    assert "is a folder; give a file" in capsys.readouterr().err
