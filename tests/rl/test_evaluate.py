from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from slidekick.data.items import Item
from slidekick.rl.evaluate import ask_labelled, leaks, normalise
from slidekick.rl.instructions import QUESTIONS

NAME = "wbc_zheng"
LABELS = {NAME: {"neutrophil", "gleason pattern 4"}}


@pytest.fixture
def item(tmp_path):
    def make(label: str, shade: int = 0, group: str = "", split: str = "test") -> Item:
        path = tmp_path / f"{label}-{shade}-{split}.png"
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)
        return Item(NAME, path.stem, path, split, group, label=label)

    return make


class Says:
    """A copilot that says one thing whatever it is asked, and notes the questions."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, []

    def ask(self, roi, question):
        self.asked.append(question)
        return SimpleNamespace(text=self.text, steps=(), confidence=1.0)


@pytest.mark.parametrize("text", ["neutrophil", "Neutrophil.", " NEUTROPHIL "])
def test_case_and_punctuation_do_not_matter(item, text):
    (row,) = ask_labelled(Says(text), [item("neutrophil")], LABELS)
    assert row["right"]
    assert not row["outside"]


@pytest.mark.parametrize(
    "text", ["", "neutrophil neutrophil", "neutrophil or monocyte", "not a neutrophil", "neutrophils are white cells"]
)
def test_repeating_hedging_and_extra_words_win_nothing(item, text):
    (row,) = ask_labelled(Says(text), [item("neutrophil")], LABELS)
    assert not row["right"]
    assert row["outside"]


def test_another_label_of_the_set_is_wrong_but_not_outside(item):
    (row,) = ask_labelled(Says("Gleason pattern 4"), [item("neutrophil")], LABELS)
    assert not row["right"]
    assert not row["outside"]


def test_the_set_s_own_question_is_asked(item):
    copilot = Says("neutrophil")
    ask_labelled(copilot, [item("neutrophil")], LABELS)
    assert copilot.asked == [QUESTIONS[NAME][0]]


def test_numbers_in_labels_count():
    assert normalise("Gleason pattern 4") != normalise("Gleason pattern 5")


def test_the_same_bytes_or_the_same_patient_in_training_are_told(item):
    train = [item("neutrophil", 10, "p1", "train")]
    same_bytes, same_patient, clean = item("neutrophil", 10, "p2"), item("neutrophil", 20, "p1"), item("neutrophil", 30)
    assert leaks(train, [same_bytes, same_patient, clean]) == [f"{NAME}/{same_bytes.id}", f"{NAME}/{same_patient.id}"]
