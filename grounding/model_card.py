"""The README.md beside trained weights: what it is, how well it does, what it learnt from. Text only."""

from __future__ import annotations

from pathlib import Path

from slidekick.data.statistics import brief
from slidekick.grounding.sizes import SegmentorConfig
from slidekick.grounding.vocabulary import Vocabulary

TEMPLATE = Path(__file__).parent / "templates" / "README.md.jinja"


def model_card(config: SegmentorConfig, vocabulary: Vocabulary, figures: dict, parameters: int) -> str:
    """Markdown of a model card in Hugging Face's form. figures: as `evaluate.evaluate_grounding` gives them."""
    from jinja2 import Environment

    template = Environment(autoescape=False, keep_trailing_newline=True).from_string(TEMPLATE.read_text())
    return template.render(
        config=config,
        concepts=list(vocabulary.concepts.values()),
        headline=figures["headline"],
        figures=figures["figures"],
        parameters=parameters,
        cell=brief,
    )
