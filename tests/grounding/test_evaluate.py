import numpy as np
import pytest

from slidekick.grounding.evaluate import choose_thresholds, dice, summary
from slidekick.grounding.vocabulary import Concept, Vocabulary


def row(there: bool, found: bool, presence: float = 0.5, concept: str = "gland", one: str = "a", **more) -> dict:
    return {"concept": concept, "set": one, "there": there, "found": found, "presence": presence, "dice": 0.0} | more


class Holder:
    def __init__(self, *names: str) -> None:
        self.vocabulary = Vocabulary([Concept(name, "region", (), 1.0, 1.0, presence_threshold=0.0) for name in names])


def test_dice_of_known_masks():
    left, all_of_it, none = np.zeros((4, 4), bool), np.ones((4, 4), bool), np.zeros((4, 4), bool)
    left[:, :2] = True
    assert dice(left, left) == 1
    assert dice(left, all_of_it) == pytest.approx(2 * 8 / 24)
    assert dice(left, none) == 0
    assert dice(none, none) == 1


def test_absent_and_left_unmarked_counts_as_right_and_marked_as_wrong():
    figures = summary([row(False, False), row(False, False), row(False, False), row(False, True)])
    assert figures["gland"]["absent_not_found"]["value"] == 0.75
    assert figures["gland"]["dice"]["n"] == 0


def test_a_picture_that_holds_it_counts_even_where_nothing_was_found():
    figures = summary([row(True, True, dice=0.8), row(True, False, dice=0.0)])
    assert figures["gland"]["dice"]["value"] == pytest.approx(0.4)
    assert figures["gland"]["found"]["value"] == 0.5
    assert figures["all"]["dice"]["n"] == 2


def test_sets_are_told_apart_where_there_are_several():
    figures = summary([row(True, True, one="easy", dice=1.0), row(True, True, one="hard", dice=0.2)])
    assert figures["gland in easy"]["dice"]["value"] == 1.0
    assert figures["gland in hard"]["dice"]["value"] == 0.2
    assert "gland in a" not in summary([row(True, True)])


def test_the_threshold_parts_pictures_with_the_concept_from_those_without():
    rows = [row(True, True, p) for p in (0.7, 0.8, 0.9)] + [row(False, False, p) for p in (0.1, 0.2, 0.3)]
    (concept,) = choose_thresholds(Holder("gland"), rows).concepts.values()
    assert 0.3 < concept.presence_threshold <= 0.7


def test_a_concept_with_few_pictures_takes_the_threshold_of_all():
    rows = [row(True, True, p) for p in (0.7, 0.8, 0.9)] + [row(False, False, p) for p in (0.1, 0.2, 0.3)]
    rows.append(row(True, True, 0.15, concept="stroma"))
    rows.append(row(False, False, 0.05, concept="stroma"))
    chosen = choose_thresholds(Holder("gland", "stroma"), rows).concepts
    assert 0.15 <= chosen["stroma"].presence_threshold <= 0.7
    assert chosen["stroma"].presence_threshold != pytest.approx(0.1, abs=0.03)
