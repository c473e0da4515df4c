"""What is a whole slide and what a picture is one rule for every command."""

from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from slidekick.apps.cli import main
from slidekick.apps.loading import LEAST_SLIDE_PX, is_slide, load_copilot
from slidekick.apps.options import read_slide
from slidekick.copilot import Copilot
from slidekick.data.slide import open_slide
from slidekick.grounding import Segmentor
from slidekick.grounding.vocabulary import Vocabulary


def written(path, side: int, levels: int, mpp: float | None = 0.5):
    pixels = np.full((side, side + 64, 3), 230, np.uint8)
    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            part = np.ascontiguousarray(pixels[:: 2**level, :: 2**level])
            more = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "compression": "deflate"}
            file.write(part, subfiletype=int(level > 0), **more, **({} if level else scale))
    return path


@pytest.mark.parametrize(
    ("side", "levels", "mpp", "whole"),
    [
        (LEAST_SLIDE_PX, 2, None, True),
        (LEAST_SLIDE_PX - 1, 2, None, False),
        (LEAST_SLIDE_PX, 1, None, False),
        (LEAST_SLIDE_PX, 2, 0.5, True),
        (LEAST_SLIDE_PX, 2, 1.0, False),  # at the scale asked for it is a picture
        (7200, 1, None, True),  # 52 million pixels are more than one read allows
        (7200, 1, 1.0, True),  # its only level is as large
    ],
)
def test_a_slide_has_levels_and_size_or_is_too_large_for_one_read(tmp_path, side, levels, mpp, whole):
    path = written(tmp_path / "a.tif", side, levels)
    with open_slide(path) as slide:
        assert is_slide(slide, mpp) == whole
    asked = SimpleNamespace(image=path, region=None, mpp=mpp)
    found = read_slide(asked)
    assert (found is not None) == whole
    if found is not None:
        found.close()


def test_segment_and_ask_take_the_same_files_for_slides(tmp_path, capsys):
    path = written(tmp_path / "a.tif", LEAST_SLIDE_PX, 2)
    assert main(["segment", str(path), "--concept", "nucleus"]) == 2
    assert "a whole slide is written piece by piece into a folder; give --out DIR" in capsys.readouterr().err


def test_a_scale_is_stated_where_the_file_has_none_and_only_there(tmp_path):
    for stated, told in ((None, 0.25), (0.5, 0.5)):
        with open_slide(written(tmp_path / f"{stated}.tif", 300, 1, stated)) as slide:
            assert slide.state_scale(0.25) == (stated is None)
            assert slide.mpp == pytest.approx((told, told))
            assert not slide.state_scale(0.75)


def test_figures_are_made_without_what_other_packages_bring(install, monkeypatch):
    code = """
    from slidekick.grounding import Concept

    class Ink:
        concepts = (Concept("ink", "region", (), (0.5, 2.0), 1.0),)

        def segment(self, image, concepts, *, mpp): ...

    ink = Ink()
    """
    install("ink-finders", code, specialists={"ink": "ink"})
    own = SimpleNamespace(vocabulary=Vocabulary([]))
    monkeypatch.setattr(Segmentor, "from_pretrained", lambda folder: own)
    monkeypatch.setattr(Copilot, "from_pretrained", lambda *given: given)
    name, team, tools, runtime = load_copilot("mini")
    assert (name, list(team.vocabulary.concepts), tools, runtime) == ("mini", ["ink"], None, "compiled")
    assert load_copilot("mini", extended=False, runtime="torch") == ("mini", own, {}, "torch")
