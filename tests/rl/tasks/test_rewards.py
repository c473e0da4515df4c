"""What holds of every family's reward: bounds, the right answer on top, and nothing to be won by empty words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidekick.rl.tasks import GENERIC, TASKS, Rollout, ToolStep
from slidekick.rl.tasks.form import FORM, brevity, form, loops

LOOSE = settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=80)
SAID = st.sampled_from(
    ["yes", "no", "Yes: gland was found, throughout the picture, covering 9% of the picture.", "There are 3 nuclei.",
     "[0, 0, 9, 9]", "[]", "none", "5%", "in the upper left", "neutrophil", "<tool_call>", "1e999", "{", "99999999999"]
)  # fmt: skip
VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=5), st.sampled_from(["9%", "<1%"])
)
RESULT = st.dictionaries(st.sampled_from(["found", "count", "area", "where", "known", "nearest", "error"]), VALUE)
MASK = st.one_of(
    st.none(),
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.booleans()).map(lambda one: np.full(one[:2], one[2])),
)
STEP = st.builds(
    ToolStep,
    st.sampled_from(["segment", "count", "measure", "zoom", ""]),
    st.dictionaries(st.sampled_from(["concept", "x"]), st.sampled_from(["gland", "nucleus", "", 4, None])),
    RESULT,
    MASK,
)
ROLLOUT = st.builds(Rollout, TEXT | SAID, st.lists(STEP, max_size=3).map(tuple), st.booleans())


@LOOSE
@given(rollout=ROLLOUT, pick=st.integers(0, 10**6))
def test_any_rollout_earns_between_0_and_1_and_so_do_its_parts(rows, rollout, pick):
    row = rows[pick % len(rows)]
    for task in (TASKS[row.task], GENERIC):
        reward = task.reward(rollout, row.truth)
        assert 0 <= reward.value <= 1
        assert all(0 <= part <= 1 for part in reward.parts.values())
        assert reward.parsed or reward.value == 0


def test_there_are_rows_of_every_family_and_the_right_answer_earns_1(rows, perfect):
    assert {row.task for row in rows} == set(TASKS)
    for row in rows:
        reward = TASKS[row.task].reward(perfect(row), row.truth)
        assert reward.value == pytest.approx(1), (row.question, row.truth["answer"], reward)
        assert GENERIC.reward(perfect(row), row.truth).value == pytest.approx(1)


@pytest.mark.parametrize("text", ["", " \n", ".", "…"])
def test_no_words_earn_nothing_whatever_was_called(rows, perfect, text):
    for row in rows:
        reward = TASKS[row.task].reward(replace(perfect(row), text=text), row.truth)
        if row.task != "detection":  # where boxes of the mask may stand for words
            assert (reward.value, reward.parsed) == (0, False), row


def test_an_answer_that_is_said_twice_earns_less_and_one_that_loops_nothing(rows, perfect):
    for row in rows:
        once = perfect(row)
        twice, often = (replace(once, text=" ".join([once.text] * times)) for times in (2, 8))
        for task in (TASKS[row.task], GENERIC):
            assert task.reward(twice, row.truth).value <= 1 - FORM or row.task == "detection", (row, task.name)
            if once.text[0] != "[":  # boxes loop by being boxes; a box said twice is matched once
                assert task.reward(often, row.truth).value == 0, (row, task.name)
        assert row.task != "detection" or TASKS["detection"].reward(often, row.truth).value < 0.4


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=12), st.lists(st.sampled_from("cde"), max_size=2))
def test_any_phrase_three_times_in_a_row_is_a_loop(phrase, before):
    assert loops(" ".join([*before, *phrase * 3]))
    assert not loops("[9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]")
    assert not loops("A gland. A duct. A gland.")


def test_listing_all_labels_or_hedging_between_two_earns_nothing(of):
    for name in ("classification", "slide_classification", "closed_vqa"):
        for row in of(name):
            options = row.truth.get("labels") or row.truth["options"]
            others = [one for one in options if one != row.truth["answer"]]
            lists = [", ".join(options)] * (len(options) > 1)
            hedges = [f"{row.truth['answer']} or {other}" for other in others]
            for text in (*lists, *hedges, f"not {row.truth['answer']}"):
                assert TASKS[name].reward(Rollout(text), row.truth).value == 0, (text, row.truth)


def test_a_tool_that_was_not_called_cannot_be_talked_about(of, perfect):
    for name, most in (("segmentation", 0), ("counting", 0.1)):
        for row in of(name):
            silent = replace(perfect(row), steps=())
            assert TASKS[name].reward(silent, row.truth).value <= most + 1e-9


@pytest.mark.parametrize("name", ["segmentation", "counting"])
def test_what_the_tool_returned_must_be_told_as_it_was(of, perfect, name):
    for row in of(name):
        right = perfect(row)
        found = right.steps[0].result["found"]
        lie = "No, none was found." if found else f"There are 7 {row.truth['word']}, covering 9% of the picture."
        assert TASKS[name].reward(replace(right, text=lie), row.truth).value <= 0.5


def test_form_is_a_tenth_and_cannot_be_earned_without_being_right(of, perfect):
    row = of("classification")[0]
    cut = TASKS["classification"].reward(replace(perfect(row), complete=False), row.truth)
    assert cut.value == pytest.approx(1 - FORM)
    assert TASKS["classification"].reward(Rollout("A teapot."), row.truth).value == 0


@given(st.integers(1, 60), st.integers(0, 300), st.integers(0, 300))
def test_longer_is_never_better(right, short, long):
    short, long = sorted((short, long))
    answer = " ".join(["word"] * right)
    assert brevity("w " * short, answer) >= brevity("w " * long, answer)
    assert brevity(answer, answer) == 1
    assert brevity("w " * max(16, 4 * right), answer) == 0


def test_marks_repeats_and_cuts_spoil_the_form():
    assert form("Colon.", "colon") == 1
    assert form("Colon.", "colon", complete=False) == 0
    for text in ("<tool_call>colon", "colon<|im_end|>", "Colon. Colon."):
        assert form(text, "colon") == 0
