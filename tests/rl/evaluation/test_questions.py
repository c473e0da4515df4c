import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.rl.evaluation.questions import (
    Question,
    count_questions,
    detect_questions,
    given_question,
    need,
    report_question,
    sample,
    sample_each,
    to_grid,
)
from slidekick.rl.instructions import QUESTIONS
from slidekick.rl.parsing import boxes


def one(n: int, name: str = "s") -> Question:
    return Question(name, f"{name}/{n}", str(n), "vqa", "text", "What?", "x")


@given(st.integers(1, 30), st.integers(1, 40), st.randoms())
def test_a_sample_is_the_same_whatever_the_order(most, n, random):
    questions = [one(i) for i in range(n)]
    shuffled = questions[:]
    random.shuffle(shuffled)
    chosen = sample(questions, most)
    assert len(chosen) == min(most, n)
    assert {q.id for q in chosen} == {q.id for q in sample(shuffled, most)}
    assert sample(questions, None) == questions


def test_every_set_is_sampled():
    questions = [one(i, name) for name in ("a", "b") for i in range(9)]
    assert [q.set for q in sample_each(questions, 2)] == ["a", "a", "b", "b"]


def test_classes_are_asked_with_the_sets_first_wording(asked):
    assert {q.question for q in asked} == {QUESTIONS["glas"][0], QUESTIONS["gbm40"][0]}
    assert all(q.truth in q.options and q.words() == q.question for q in asked)


@pytest.mark.parametrize(
    ("answer", "options", "kind", "truth"),
    [("Yes", None, "yes_no", "yes"), ("no.", None, "yes_no", "no"), ("3", None, "number", 3.0),
     ("nodule", None, "text", "nodule"), ("Typical antral ulcer", None, "text", "typical antral ulcer"),
     ("D) Whorled pattern", ["A) Random", "B) Palisading", "C) Rosette", "D) Whorled pattern"], "choice", "D"),
     ("B", ["gland", "stroma"], "choice", "B"), ("stroma", ["gland", "stroma"], "choice", "B"),
     ("organ 27", [f"organ {i}" for i in range(30)], "label", "organ 27")],
)  # fmt: skip
def test_the_kind_follows_from_the_answer(answer, options, kind, truth):
    made = given_question({"id": 1, "question": "What?", "answer": answer, "options": options}, "s", None)
    assert (made.kind, made.truth) == (kind, truth)


def test_choices_are_listed_without_their_old_letters():
    entry = {"id": 1, "question": "Which?", "answer": "A) gland", "choices": ["A) gland", "B) stroma"]}
    assert given_question(entry, "s", None).words().splitlines()[:3] == ["Which?", "A. gland", "B. stroma"]


def test_an_answer_that_is_no_option_is_told():
    with pytest.raises(ValueError, match="none of the options"):
        given_question({"id": 1, "question": "Which?", "answer": "fat", "options": ["gland", "stroma"]}, "s", None)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4).map(sorted))
def test_a_box_on_the_grid_can_be_read_again(sides):
    x0, y0, x1, y1 = sides
    if x1 - x0 > 0.01 and y1 - y0 > 0.01:
        grid = to_grid(np.array([x0, y0, x1, y1]))
        assert boxes(str(grid)) == [tuple(grid)]


@pytest.fixture
def marked(tmp_path):
    """Two pictures with boxes, one with points, one with instances, one of a set that marks some cells only."""

    def write(name, rows):
        folder = tmp_path / name
        folder.mkdir()
        for row in rows:
            Image.new("RGB", (100, 50)).save(folder / f"{row['id']}.png")
        lines = [json.dumps({"image": f"{row['id']}.png", "split": "test", **row}) for row in rows]
        (folder / "items.jsonl").write_text("\n".join(lines))
        return folder

    write("cells", [{"id": "1", "boxes": [[0, 0, 50, 25, "white cell"], [50, 25, 100, 50, "platelet"]]},
                    {"id": "2", "boxes": [[10, 10, 20, 20, "white cell"]]}])  # fmt: skip
    write("points", [{"id": "1", "points": [[1, 1, "round nucleus"], [2, 2, "long nucleus"], [3, 3, "other nucleus"]]}])
    write("brecahad_nuclei", [{"id": "1", "points": [[1, 1, "nucleus"]]}])
    ids = np.zeros((50, 100), np.uint16)
    ids[:5, :5], ids[10:15, :5] = 1, 7
    folder = write("drawn", [{"id": "1", "instances": "ids.png", "classes": {"1": "gland (benign)"}}])
    Image.fromarray(ids).save(folder / "ids.png")
    return load_items(tmp_path)


def test_boxes_are_asked_for_every_class_of_the_set_also_where_there_is_none(marked):
    truth = {q.id: q.truth for q in detect_questions(marked)}
    assert truth == {
        "cells/1#platelet": [[500, 500, 999, 999]],
        "cells/1#white cell": [[0, 0, 500, 500]],
        "cells/2#platelet": [],
        "cells/2#white cell": [[100, 200, 200, 400]],
    }


def test_counts_are_those_of_the_marks_and_partly_marked_sets_are_left_out(marked):
    truth = {q.id: q.truth for q in count_questions(marked)}
    assert truth["drawn/1#gland"] == 2, "two ids, whatever their numbers"
    assert truth["cells/2#platelet"] == 0
    assert truth["points/1#nucleus"] == 3, "unnamed ones are nuclei too"
    assert "points/1#other nucleus" not in truth
    assert not any(name.startswith("brecahad") for name in truth)
    assert {q.question for q in count_questions(marked) if q.set == "points"} >= {"How many nuclei are there?"}


def test_reports_are_taken_from_what_they_are_called():
    assert report_question({"id": 1, "caption": "A Gland."}, "s", None).truth == "a gland"


def test_nothing_to_ask_says_what_is_needed():
    with pytest.raises(InputError, match="boxes"):
        need([], "folder", "detect")
