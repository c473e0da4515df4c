"""Tool use: judged as a person would judge it, sentence by sentence, and a whole run with a real copilot."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.copilot.sentences import count_sentence, measure_sentence, segment_sentence
from slidekick.data.items import load_items
from slidekick.rl.evaluation.asking import Asker, ask_of
from slidekick.rl.evaluation.comparison import compare
from slidekick.rl.evaluation.measures import figures, flat, measures_of
from slidekick.rl.evaluation.page import to_html
from slidekick.rl.evaluation.run import Plan, evaluate
from slidekick.rl.evaluation.tool_questions import tool_questions
from slidekick.rl.evaluation.tool_use import judged, not_found_said, numbers_equal, same_word
from slidekick.rl.instructions.concepts import names, vocabulary
from slidekick.rl.instructions.truth import invented

FOUND = {"found": True, "count": 12}
MEASURED = {"found": True, "count": 12, "area": "31%", "diameter": "8.4 um"}
SENTENCES = {"count": count_sentence, "measure": measure_sentence,
             "segment": lambda argument, result: segment_sentence(argument, result, yes=True)}  # fmt: skip


def row(*calls, want="count", argument="gland", asked="gland", answer="There are 12 glands.", supported=1.0, **more):
    """A row before it is judged. calls: (tool, argument, result)."""
    made = {"id": "s/1", "set": "s", "group": "g", "family": "tools", "change": "none", "answer": answer}
    made |= {"calls": [dict(zip(("tool", "argument", "result"), call, strict=True)) for call in calls]}
    made |= {"expected_tool": want, "expected_argument": argument, "asked_word": asked, "supported": supported}
    return made | {"word": "name", "wording": "new"} | more


def aspects(*calls, **more):
    one = judged(row(*calls, **more), vocabulary())
    return tuple(one[name] for name in ("tool_choice", "tool_arguments", "numbers_equal", "not_found_said"))


def test_the_right_call_with_its_number_is_right_in_everything():
    one = judged(row(("count", "gland", FOUND)), vocabulary())
    assert (one["right"], one["score"], one["said"], one["returned"]) == (1, 1, "count(gland)", FOUND)
    assert aspects(("count", "gland", FOUND)) == (1, 1, 1, None)


def test_another_tool_is_wrong_first_alone_or_after_the_right_one():
    both = [("count", "gland", FOUND), ("measure", "gland", MEASURED)]
    assert aspects(both[1])[:2] == (0, 0)
    assert aspects(*both)[:2] == (0, 0)
    assert aspects(*reversed(both))[:2] == (0, 0)
    assert aspects()[:2] == (0, 0)


def test_where_no_tool_is_wanted_only_words_are_right():
    none = {"want": "none", "argument": None, "asked": None, "answer": "colon"}
    assert aspects(**none) == (1, None, None, None)
    assert aspects(("count", "gland", FOUND), **none)[0] == 0
    silent = judged(row(**none | {"answer": ""}), vocabulary())
    assert (silent["tool_choice"], silent["said"]) == (0, None)


@pytest.mark.parametrize(
    ("called", "wanted", "same"),
    [("gland", "crypt", True), ("crypt", "crypt", True), ("Glands", "gland", True), ("gland", "normal gland", False),
     ("nucleus", "gland", False), ("mitosis", "mitosis", True), ("mitoses", "mitosis", True),
     ("reed sternberg cell", "Reed-Sternberg cell", True), ("sternberg cell", "Reed-Sternberg cell", False),
     ("None", "mitosis", False), ("None", "gland", False)],
)  # fmt: skip
def test_an_argument_is_right_by_meaning_or_by_letters(called, wanted, same):
    assert same_word(called, wanted, vocabulary()) is same


@pytest.mark.parametrize(
    ("text", "result", "equal"),
    [("There are 12 glands.", FOUND, True), ("Twelve glands.", FOUND, True), ("About 12 glands.", FOUND, True),
     ("There are 13 glands.", FOUND, False), ("There are more than 10 glands.", FOUND, False),
     ("There are glands.", FOUND, False), ("There are 12 glands, covering 40% of it.", FOUND, False),
     ("12 glands were measured, covering 31%, diameter 8 um.", MEASURED, True),
     ("12 glands were measured, covering 31%, diameter 9 um.", MEASURED, False),
     ("They cover 31%.", MEASURED, False), ("12% is covered.", FOUND, False),
     ("Tumour covers <1% of the picture.", {"found": True, "area": "<1%"}, True),
     ("Tumour covers 1% of the picture.", {"found": True, "area": "<1%"}, False),
     ("Gleason pattern 4 covers 31%.", {"found": True, "area": "31%"}, True)],
)  # fmt: skip
def test_numbers_are_those_that_came_back(text, result, equal):
    assert numbers_equal(text, [result], ["count"]) is equal


def test_of_a_measure_any_number_may_be_said_that_came_back():
    assert numbers_equal("They cover 31%.", [MEASURED], ["measure"])
    assert not numbers_equal("They cover 32%.", [MEASURED], ["measure"])
    assert not numbers_equal("They were measured.", [MEASURED], ["measure"])


@given(st.sampled_from(sorted(SENTENCES)), st.sampled_from(names()), st.integers(0, 10**6))
def test_what_is_taught_to_say_is_always_right_and_another_number_never(tool, concept, seed):
    result = invented(np.random.default_rng(seed), tool, concept)
    text = SENTENCES[tool](concept, result)
    if not result["found"]:
        assert not_found_said(text, 1)
        assert not not_found_said(f"{text} 7 were counted.", 1)
        return
    assert numbers_equal(text, [result], [tool])
    assert not numbers_equal(f"{text} 1234 more.", [result], [tool])
    assert not numbers_equal("It was found.", [result], [tool])


def test_saying_that_nothing_is_there_needs_words_and_evidence_and_no_number():
    assert not_found_said('"tree" is not in the vocabulary; nearest known: gland.', 1)
    assert not_found_said("There are 0 glands.", 1)
    assert not not_found_said("There are 3 glands.", 0)
    assert not not_found_said("No gland was found.", 0.5)
    assert not not_found_said("Colon.", 1)


def test_a_tool_that_failed_is_neither_number_nor_absence():
    assert aspects(("count", "gland", {"error": "x"}), answer="The tool failed.") == (1, 1, None, None)


def test_figures_count_a_missing_call_as_a_wrong_argument():
    good, missing = row(("count", "gland", FOUND)), row(answer="many")
    other = row(("count", "nucleus", FOUND), wording="taught")
    rows = [judged(one | {"group": str(i)}, vocabulary()) for i, one in enumerate((good, missing, other))]
    told = flat(figures(rows, measures_of(rows)))
    assert told["tool_choice"] == pytest.approx(2 / 3, abs=1e-4)
    assert told["tool_arguments"] == pytest.approx(1 / 3, abs=1e-4)
    assert told["tool_arguments.given_choice"] == 0.5
    assert (told["tool_choice.new_wordings"], told["tool_choice.taught_wordings"]) == (0.5, 1)
    assert (told["numbers_equal"], told["numbers_equal_n"]) == (1, 2)
    assert "not_found_said" not in told
    assert told["tool_choice_ci"][0] < told["tool_choice"] < told["tool_choice_ci"][1]


@pytest.fixture
def plan(rich):
    return Plan("tools", rich, split="train", limit=48)


@pytest.fixture
def questions(plan):
    return tool_questions(load_items(plan.data, None, plan.split), plan.limit)


def test_a_copilot_that_uses_its_tools_well_is_right_in_everything(diligent, plan, questions, tmp_path):
    copilot = diligent(questions)
    result = evaluate(copilot, plan, tmp_path / "answers.jsonl")
    metrics = result.summary["metrics"]
    parts = ("tool_choice", "tool_arguments", "numbers_equal", "not_found_said", "words_stood")
    assert [metrics[name] for name in parts] == [1] * 5
    assert metrics["tool_arguments_n"] + metrics["tool_choice.none_n"] == metrics["tool_choice_n"] == len(questions)
    assert json.loads(json.dumps(result.summary["metrics"])) == metrics
    again = evaluate(diligent([]), plan, tmp_path / "answers.jsonl")
    assert again.rows == result.rows, "nothing was asked again"


def test_turns_and_findings_are_not_made_twice(diligent, plan):
    questions = tool_questions(load_items(plan.data, None, plan.split), 300)
    copilot = diligent(questions)
    said = Asker(copilot).ask([ask_of(one) for one in questions], "")
    called = [(one.picture, row["calls"]) for one, row in zip(questions, said, strict=True) if row["calls"]]
    assert copilot.engine.turned == 0, "calls and answers were written with others"
    looked = [(picture, calls[0]["argument"]) for picture, calls in called]
    assert len(copilot.segmentor.looked) == len(set(looked)) < len(looked)


def test_misused_tools_are_told_apart(diligent, plan, questions):
    always = evaluate(diligent(questions, first=lambda _: ("count", "nucleus")), plan).summary["metrics"]
    assert (always["tool_choice.count"], always["tool_choice.none"], always["tool_choice.measure"]) == (1, 0, 0)
    assert always["tool_arguments"] < 0.2
    made_up = evaluate(diligent(questions, after=lambda text: f"{text} 4321 in all."), plan).summary["metrics"]
    assert (made_up["tool_choice"], made_up["numbers_equal"], made_up["not_found_said"]) == (1, 1, 1)
    assert made_up["words_stood"] == 0, "numbers that were not measured are replaced"


def test_the_page_shows_what_was_wanted_and_called(diligent, plan, questions):
    result = evaluate(diligent(questions, first=lambda _: ("count", "<b>x")), plan)
    page = to_html(result.summary, result.rows, result.questions)
    assert "<b>Wanted:</b>" in page
    assert "count(&lt;b&gt;x)" in page
    assert "<b>x" not in page


def test_two_runs_are_compared(diligent, plan, questions, tmp_path):
    for name, engine in (("a", {}), ("b", {"first": lambda _: None})):
        rows = evaluate(diligent(questions, **engine), plan).rows
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    told = compare(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert told["metrics"]["tool_arguments"] == -1
    assert told["metrics"]["tool_choice.none"] == 0
    assert told["family"] == "tools"
