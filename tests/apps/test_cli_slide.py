import json

import numpy as np
import tifffile

from slidekick.apps.cli import main


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
    }
    assert main(["slide", "info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "0.5 x 0.5 µm per pixel" in text
    assert "0.512 x 0.256 mm" in text
    assert "Jane" not in text


def test_a_picture_without_a_scale_says_how_to_state_it(picture, capsys):
    assert main(["slide", "info", str(picture)]) == 0
    assert "unknown; state it with --mpp" in capsys.readouterr().out
