"""Tiny random models, a scripted engine, a segmentor that draws what it is told, a small picture, a painted slide."""

from __future__ import annotations

import numpy as np
import pytest
from painted_slides import ColourTower, paint_case, taught_encoder
from scripted import DrawnSegmentor, ScriptedEngine
from tiny_models import KINDS, make_tiny, make_tokenizer

from slidekick.copilot.slide_reader import SlideReader
from slidekick.data.slide import Region, Roi, open_slide


@pytest.fixture(scope="session", params=["text", "added", "special"])
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="session", params=KINDS)
def tiny(request):
    """(model, processor) with random numbers: FastVLM with mini's own template, or Qwen2-VL with call tokens."""
    return make_tiny(request.param)


@pytest.fixture(scope="module", params=KINDS)
def own_tiny(request):
    """The same, for a module that changes the model."""
    return make_tiny(request.param)


@pytest.fixture
def segmentor():
    return DrawnSegmentor()


@pytest.fixture
def roi():
    pixels = np.full((100, 120, 3), 220, dtype=np.uint8)
    return Roi(pixels, (0.5, 0.5), Region(0, 0, 120, 100), "tissue.png")


@pytest.fixture
def bare_roi(roi):
    """The same picture without a known scale."""
    return Roi(roi.pixels, None, roi.region, roi.source)


@pytest.fixture
def scripted():
    return ScriptedEngine


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Tumour on the left third of the tissue, fat on the rest, glass around; 0.5 µm."""
    with open_slide(paint_case(tmp_path_factory.mktemp("slide"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def reader():
    return SlideReader(ColourTower(), taught_encoder())


@pytest.fixture(scope="module")
def survey(slide, reader):
    return reader.survey(slide, keep=False)
