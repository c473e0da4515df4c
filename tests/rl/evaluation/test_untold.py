"""Questions that no picture answers, told from others by a line through their vectors."""

import re

import numpy as np

from slidekick.rl.evaluation.tool_wordings import REFUSE
from slidekick.rl.evaluation.untold import fit_untold, taught_questions

LABELS = ["lung adenocarcinoma", "benign lung tissue"]


def bag(words: str) -> np.ndarray:
    """Which of a hundred bins the words fall into."""
    counted = np.zeros(100, np.float32)
    for word in re.findall(r"[a-z0-9]+", words.lower()):
        counted[sum(map(ord, word)) * 7 % 100] += 1
    return counted


def test_taught_wordings_are_parted_and_no_new_one_is_among_them():
    untold, told = taught_questions(LABELS)
    assert "How old is the patient?" in untold
    assert "Is KRAS mutated?" in untold
    assert "What is the HER2 status?" not in untold, "a protein may be stained"
    assert len(told) > 5 * len(untold) > 100
    assert not set(untold) & set(told)
    assert not set(REFUSE) & {*untold, *told}
    assert any("lung adenocarcinoma" in words for words in told)
    assert all("{" not in words for words in told)


def test_the_line_parts_what_it_was_fitted_on_with_a_margin_for_what_may_be_answered():
    weights, bias = fit_untold(bag, LABELS)
    untold, told = taught_questions(LABELS)
    assert np.mean([weights @ bag(words) + bias > 0 for words in told]) < 0.05, "of bins that many words share"
    assert np.mean([weights @ bag(words) + bias > 0 for words in untold]) > 0.7
