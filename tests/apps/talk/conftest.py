"""A copilot for tests of commands: scripted words over a segmentor that draws what it is told."""

import pytest
from talking import DrawnSegmentor, KeywordEngine

from slidekick.copilot.copilot import Copilot


@pytest.fixture
def copilot() -> Copilot:
    return Copilot(KeywordEngine(), DrawnSegmentor())
