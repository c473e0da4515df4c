"""The reinforced families asked about held-out pictures, and judged by what was drawn, counted and said."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from slidekick.copilot.copilot import Copilot
from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.turn import Turn
from slidekick.data.items import load_items
from slidekick.data.slide import read_roi
from slidekick.grounding.export import from_rle
from slidekick.grounding.finding import Finding
from slidekick.rl.evaluation.comparison import compare
from slidekick.rl.evaluation.run import Plan, evaluate
from slidekick.rl.evaluation.task_questions import task_questions
from slidekick.rl.instructions.concepts import vocabulary

FAMILIES = {"classification", "detection", "segmentation", "counting", "closed_vqa", "open_vqa", "report"}


@pytest.fixture
def held(rich, tmp_path):
    """The rich folder as held-out pictures."""
    folder = tmp_path / "held"
    shutil.copytree(rich, folder)
    for file in folder.glob("*/items.jsonl"):
        file.write_text(file.read_text().replace('"split": "train"', '"split": "test"'))
    return folder


@pytest.fixture
def asked(held):
    return task_questions(load_items(held), 70)


def test_families_share_the_questions_and_each_is_asked_once(asked, held):
    numbers = Counter(one.notes["task"] for one in asked)
    assert set(numbers) == FAMILIES
    assert max(numbers.values()) <= 10
    assert numbers["segmentation"] == numbers["closed_vqa"] == 10
    assert len({one.id for one in asked}) == len(asked)
    assert all(one.picture is not None and one.group for one in asked)
    assert [one.id for one in task_questions(load_items(held), 70)] == [one.id for one in asked]
    assert {one.id for one in task_questions(load_items(held), 7)} <= {one.id for one in asked}


class Knowing:
    """Knows the truth of each question: calls for it, or says it. silent: never calls."""

    name, history = "knowing", 0

    def __init__(self, questions, silent=False) -> None:
        self.of = {(one.question, read_roi(one.picture).pixels.tobytes()): one for one in questions}
        self.silent = silent

    def turn(self, messages, image, tools, *, calls=True):
        text = self._text(messages, image)
        yield text
        yield Turn(text, 0.9)

    def turns(self, asked, tools, calls=None):
        return [Turn(self._text(messages, image), 0.9) for messages, image in asked]

    def _text(self, messages, image) -> str:
        words = next(part["text"] for part in messages[0]["content"] if part["type"] == "text")
        one = self.of[words, image.tobytes()]
        truth = one.notes["task_truth"]
        tool = {"segmentation": "segment", "counting": "count"}.get(one.notes["task"])
        if tool and not self.silent and messages[-1]["role"] != "tool":
            return ToolCall(tool, {"concept": truth["word"]}).to_text()
        return str(truth["answer"])


class Seeing:
    """Draws the upper half of every picture, and knows nothing of unknown words."""

    vocabulary, weights = vocabulary(), None

    def segment(self, image, concepts, *, mpp=None):
        mask = np.zeros(image.shape[:2], bool)
        mask[: len(mask) // 2] = True
        return [self._finding(words, mask) for words in concepts]

    def _finding(self, words: str, mask: np.ndarray) -> Finding:
        concept = self.vocabulary.find(words)
        if concept is None:
            return Finding(words, np.zeros_like(mask), 0.1, 0.1, known=False, prompt=words, nearest="gland")
        ids = mask.astype(np.int32) if concept.kind == "object" else None
        return Finding(concept.name, mask, 0.9, 0.9, ids, prompt=words)


def run_of(asked, held, **more):
    return evaluate(Copilot(Knowing(asked, **more), Seeing()), Plan("tasks", held, limit=70))


def test_who_knows_the_labels_is_right_and_masks_are_judged_by_the_truth(asked, held):
    result = run_of(asked, held)
    metrics = result.summary["metrics"]
    assert metrics["classification"] == metrics["closed_vqa"] == metrics["open_vqa"] == 1
    assert 0 < metrics["segmentation"] < 1, "half of every picture is no answer"
    assert metrics["calls.segmentation"] == 1
    assert metrics["calls.classification"] == 0
    told = ("mean", "parsed", "segmentation", "counting")
    assert all(f"{name}_ci" in metrics and f"{name}_n" in metrics for name in told)
    drawn = next(r for r in result.rows if r["task"] == "segmentation" and r["task_truth"]["mask"] and r["said"])
    true, mask = from_rle(drawn["task_truth"]["mask"]), from_rle(drawn["calls"][0]["rle"])
    assert mask.shape == true.shape
    both = 2 * (mask & true).sum() / (mask.sum() + true.sum())
    assert drawn["parts"]["dice"] == pytest.approx(both if true.any() else 0, abs=1e-6)


def test_words_without_a_call_are_no_segmentation_and_a_guess_when_counting(asked, held):
    metrics = run_of(asked, held, silent=True).summary["metrics"]
    assert metrics["segmentation"] == metrics["calls.segmentation"] == metrics["parsed.segmentation"] == 0
    assert 0 < metrics["counting"] <= 0.1
    assert metrics["classification"] == 1


def test_rare_classes_weigh_more(asked, held):
    rows = run_of(asked, held).rows
    assert {row["weight"] for row in rows if row["task"] != "classification"} == {1.0}
    assert all(row["weight"] == row["task_truth"]["weight"] for row in rows if row["task"] == "classification")


def test_two_runs_are_compared_question_by_question(asked, held, tmp_path):
    for name, silent in (("silent", True), ("calling", False)):
        rows = run_of(asked, held, silent=silent).rows
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gained = compare(tmp_path / "silent", tmp_path / "calling")["figures"]
    assert gained["segmentation"]["difference"]["low"] > 0
    assert gained["classification"]["difference"]["value"] == 0
