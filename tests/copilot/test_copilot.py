"""The loop: model turn, tool, model turn, checked answer."""

import json
from dataclasses import replace

import numpy as np
import pytest

from slidekick.copilot.answer import MAX_QUESTION, check_question
from slidekick.copilot.confidence import Confidence
from slidekick.copilot.copilot import MAX_STEPS, Copilot, Event, find_masks, short_answer
from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.together import together
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError

COUNT = ToolCall("count", {"concept": "nucleus"}).to_text()
HOW_MANY = "How many nuclei are there?"


@pytest.fixture
def answer(segmentor, roi, scripted):
    def ask(*lines, question=HOW_MANY, picture=roi, history=()):
        return Copilot(scripted(*lines), segmentor).ask(picture, question, history)

    return ask


def test_a_counted_answer_rests_on_the_tools_number(answer):
    result = answer(COUNT, "There are 3 nuclei.")
    assert (result.text, result.short, result.confidence) == ("There are 3 nuclei.", "3", 0.9)
    assert [(s.id, s.name, s.arguments, s.result) for s in result.steps] == [
        ("t1", "count", {"concept": "nucleus"}, {"found": True, "count": 3})
    ]
    (claim,) = result.claims
    assert claim.supported
    backing = {item.id: item for item in result.evidence}
    assert {backing[name].kind for name in claim.evidence} == {"presence", "count"}
    assert result.warnings == ()
    assert find_masks(result)["nucleus"].sum() == 300


@pytest.mark.parametrize(("presence", "found", "sure"), [(0.57, True, 0.57), (0.95, True, 0.9), (0.3, False, 0.7)])
def test_an_answer_is_no_surer_than_the_tools(segmentor, roi, scripted, presence, found, sure):
    class Unsure:
        def segment(self, image, concepts, *, mpp=None):
            drawn = segmentor.segment(image, concepts, mpp=mpp)
            return [replace(one, presence=presence, mask=one.mask & found) for one in drawn]

    text = "There are 3 nuclei." if found else "No nuclei were found in this picture."
    assert Copilot(scripted(COUNT, text), Unsure()).ask(roi, HOW_MANY).confidence == sure


@pytest.mark.parametrize("words", ["There are 31 nuclei.", "colon", "", "There are 3 nuclei. There are 3 nuclei."])
def test_words_that_are_not_what_was_measured_are_replaced_by_it(answer, words):
    result = answer(COUNT, words)
    assert result.text == "There are 3 nuclei."
    assert all(claim.supported and claim.kind == "measured" for claim in result.claims)
    assert any("replaced by what was measured" in warning for warning in result.warnings)
    assert {item.kind: item.value for item in result.evidence}["count"] == 3


def test_a_slipped_digit_is_told_with_the_number_that_was_measured(answer):
    warnings = answer(COUNT, "There are 31 nuclei.").warnings
    assert any("There are 31 nuclei." in warning and "nucleus: 3" in warning for warning in warnings)


def test_an_answer_without_tools_is_a_reading(answer):
    result = answer("colon", question="What is shown?")
    assert (result.short, result.steps, result.evidence) == ("colon", (), ())
    assert [(claim.kind, claim.supported) for claim in result.claims] == [("reading", True)]


def test_an_absent_concept_is_answered_not_found(answer):
    call = ToolCall("segment", {"concept": "glomerulus"}).to_text()
    result = answer(call, "No glomerulus was found in this picture.", question="Where is the glomerulus?")
    assert result.short == "not found"
    assert result.claims[0].supported
    assert not result.evidence[0].found


def test_a_word_outside_the_vocabulary_warns_with_the_nearest(answer):
    call = ToolCall("count", {"concept": "unicorn"}).to_text()
    result = answer(call, '"unicorn" is not in the vocabulary; nearest known: gland.')
    assert result.short == "unknown"
    assert any("unicorn" in warning and "gland" in warning for warning in result.warnings)


def test_without_a_scale_the_answer_says_that_areas_are_in_pixels(answer, bare_roi):
    call = ToolCall("measure", {"concept": "nucleus"}).to_text()
    result = answer(call, "There are 3 nuclei.", picture=bare_roi)
    assert any("--mpp" in warning for warning in result.warnings)


def test_the_same_call_twice_stops_the_tools_with_a_warning(segmentor, roi, scripted):
    engine = scripted(COUNT, COUNT, "There are 3 nuclei.")
    result = Copilot(engine, segmentor).ask(roi, HOW_MANY)
    assert len(result.steps) == 1
    assert [asked["calls"] for asked in engine.asked] == [True, True, False]
    assert any("twice" in warning for warning in result.warnings)
    assert result.text == "There are 3 nuclei."


def test_after_three_calls_the_model_must_answer(segmentor, roi, scripted):
    calls = [ToolCall("count", {"concept": word}).to_text() for word in ("nucleus", "gland", "glomerulus")]
    engine = scripted(*calls, "There are 3 nuclei.")
    result = Copilot(engine, segmentor).ask(roi, HOW_MANY)
    assert len(result.steps) == MAX_STEPS
    assert [asked["calls"] for asked in engine.asked] == [True, True, True, False]


def test_where_an_engine_never_stops_calling_what_was_measured_is_said(answer):
    assert answer(COUNT, COUNT, COUNT).text == "There are 3 nuclei."
    broken = ToolCall("count", {"concept": "?"}).to_text()
    result = answer(broken, broken, broken)
    assert result.text == ""
    assert any("did not come to an answer" in warning for warning in result.warnings)


def test_a_call_that_does_not_parse_is_no_text_for_people(answer):
    result = answer("<tool_call>\n{broken")
    assert result.text == ""
    assert any("does not parse" in warning for warning in result.warnings)


def test_a_failing_tool_is_told_to_the_model_and_to_the_user(segmentor, roi, scripted):
    engine = scripted(ToolCall("count", {"concept": "broken"}).to_text(), "I cannot tell.")
    result = Copilot(engine, segmentor).ask(roi, HOW_MANY)
    assert "failed" in engine.asked[1]["messages"][-1]["content"]
    assert any("failed" in warning for warning in result.warnings)


def test_the_model_is_shown_the_call_and_its_result_as_a_tool_turn(segmentor, roi, scripted):
    engine = scripted(COUNT, "There are 3 nuclei.")
    Copilot(engine, segmentor).ask(roi, HOW_MANY)
    user, call, result = engine.asked[1]["messages"]
    assert user == {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": HOW_MANY}]}
    assert call["tool_calls"][0]["function"] == {"name": "count", "arguments": {"concept": "nucleus"}}
    assert result == {"role": "tool", "name": "count", "content": '{"found": true, "count": 3}'}


def test_a_conversation_shows_earlier_answers_and_the_picture_once(segmentor, roi, scripted):
    first = Copilot(scripted(COUNT, "There are 3 nuclei."), segmentor).ask(roi, HOW_MANY)
    engine = scripted("colon")
    Copilot(engine, segmentor).ask(roi, "What is shown?", history=[first])
    messages = engine.asked[0]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert str(messages).count("'image'") == 1
    assert messages[-1]["content"] == [{"type": "text", "text": "What is shown?"}]


def test_a_model_made_for_single_questions_is_shown_no_earlier_answer(segmentor, roi, scripted):
    first = Copilot(scripted("colon"), segmentor).ask(roi, "What is shown?")
    engine = scripted("colon")
    engine.history = 0
    Copilot(engine, segmentor).ask(roi, HOW_MANY, history=[first] * 3)
    assert [message["role"] for message in engine.asked[0]["messages"]] == ["user"]
    assert engine.asked[0]["messages"][0]["content"][0] == {"type": "image"}


def test_numbers_of_an_earlier_answer_do_not_back_a_later_one(answer, segmentor, roi, scripted):
    first = answer(COUNT, "There are 3 nuclei.")
    later = answer("There are 3 nuclei.", history=[first])
    assert not later.claims[0].supported


def test_events_come_in_order_and_text_never_shows_a_call(segmentor, roi, scripted):
    events = list(Copilot(scripted(COUNT, "There are 3 nuclei."), segmentor).stream(roi, HOW_MANY))
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["tool_start", "tool_end"]
    assert set(kinds[2:-1]) == {"text"}
    assert kinds[-1] == "answer"
    assert "".join(event.text for event in events) == "There are 3 nuclei."
    assert events[1].findings[0].concept == "nucleus"
    assert events[1].step.seconds >= 0
    assert isinstance(events[0], Event)


class Together:
    """Writes turns in rounds: lists of texts, one round after the other; keeps who might call."""

    name, history = "together", 0

    def __init__(self, *rounds) -> None:
        self.rounds, self.asked = list(rounds), []

    def turns(self, asked, tools, calls=None):
        self.asked.append((asked, calls))
        return [Turn(text, 0.9) for text in self.rounds.pop(0)]


def test_many_questions_go_on_together_and_each_is_answered_as_alone(segmentor, roi, scripted):
    engine = Together([COUNT, "Colon.", COUNT], ["There are 3 nuclei.", COUNT], ["There are 3 nuclei."])
    copilot = Copilot(engine, segmentor)
    box = copilot.toolbox(roi)
    answers = copilot.ask_many([(copilot.toolbox(roi), HOW_MANY), (box, "Which organ?"), (box, HOW_MANY)])
    assert [one.text for one in answers] == ["There are 3 nuclei.", "Colon.", "There are 3 nuclei."]
    assert [len(one.steps) for one in answers] == [1, 0, 1]
    assert [calls for _, calls in engine.asked] == [[True] * 3, [True] * 2, [False]], "who repeats a call must answer"
    alone = Copilot(scripted(COUNT, "There are 3 nuclei."), segmentor).ask(roi, HOW_MANY)
    assert (alone.claims, alone.evidence) == (answers[0].claims, answers[0].evidence)


def test_first_turns_that_are_there_already_are_not_written_again(segmentor, roi):
    engine = Together(["There are 3 nuclei."])
    copilot = Copilot(engine, segmentor)
    asked = [(copilot.toolbox(roi), HOW_MANY), (copilot.toolbox(roi), "Which organ?")]
    first, second = copilot.ask_many(asked, [Turn(COUNT, 0.5), Turn("Colon.", 0.5)])
    assert (first.steps[0].result["count"], second.text, second.confidence) == (3, "Colon.", 0.5)
    assert len(engine.asked) == 1
    assert copilot.ask_many([]) == []
    with pytest.raises(InputError, match="ask"):
        copilot.ask_many([(copilot.toolbox(roi), "?!")])


def test_many_answers_are_told_as_they_grow_and_one_that_nobody_waits_for_is_left(segmentor, roi):
    engine = Together([COUNT, "Colon.", COUNT], ["There are 3 nuclei."])
    copilot = Copilot(engine, segmentor)
    makings = [copilot.answering(copilot.draft(roi, words)) for words in (HOW_MANY, "Which organ?", HOW_MANY)]
    heard = []
    for index, event in together(engine, makings, dropped=lambda index: index == 2 and len(heard) > 2):
        heard.append((index, event.kind))
    assert heard == [
        (0, "tool_start"), (0, "tool_end"), (1, "text"), (1, "answer"), (0, "text"), (0, "answer"),
    ]  # fmt: skip
    assert [len(asked) for asked, _ in engine.asked] == [3, 1]


def test_an_engine_that_writes_one_turn_at_a_time_answers_many_too(segmentor, roi, scripted):
    copilot = Copilot(scripted(COUNT, "Colon.", "There are 3 nuclei."), segmentor)
    answers = copilot.ask_many([(copilot.toolbox(roi), HOW_MANY), (copilot.toolbox(roi), "Which organ?")])
    assert [one.text for one in answers] == ["There are 3 nuclei.", "Colon."]


def test_text_that_begins_like_a_call_is_shown_in_full(segmentor, roi, scripted):
    events = list(Copilot(scripted("<tool"), segmentor).stream(roi, HOW_MANY))
    assert "".join(event.text for event in events) == "<tool"


@pytest.mark.parametrize("question", ["", "   \n", "?!", None, 3, b"how"])
def test_an_empty_question_is_refused_with_a_mend(segmentor, roi, scripted, question):
    with pytest.raises(InputError, match="ask"):
        Copilot(scripted("x"), segmentor).ask(roi, question)


def test_a_question_of_100_kb_is_refused_at_once(segmentor, roi, scripted):
    with pytest.raises(InputError, match="4000; shorten"):
        Copilot(scripted("x"), segmentor).stream(roi, "x" * 100_000)
    assert check_question("x" * MAX_QUESTION)


def test_a_picture_that_is_no_roi_is_refused(segmentor, roi, scripted):
    with pytest.raises(InputError, match="read_roi"):
        Copilot(scripted("x"), segmentor).ask(roi.pixels, HOW_MANY)


@pytest.mark.parametrize(
    ("question", "text", "result", "short"),
    [
        ("How many nuclei are there?", "There are 212 nuclei.", {"found": True, "count": 212}, "212"),
        ("Is there a gland?", "Yes: gland was found.", {"found": True, "area": "31%"}, "yes"),
        ("Is there a gland?", "No gland was found.", {"found": False}, "no"),
        ("Where is the gland?", "No gland was found.", {"found": False}, "not found"),
        ("How much is gland?", "31%", {"found": True, "area": "31%"}, "31%"),
        ("Are there more than 300 nuclei?", "No, there are 212 nuclei.", {"found": True, "count": 212}, "no"),
        ("Are there more than 300 nuclei?", "There are 212 nuclei.", {"found": True, "count": 212}, "212"),
        ("Is there a unicorn?", "?", {"found": False, "known": False}, "unknown"),
        ("Is it tumour?", "Yes.", None, "yes"),
        ("Is it tumour?", "No, it is normal.", None, "no"),
        ("What is shown?", "Colon adenocarcinoma. It is stained with H&E.", None, "Colon adenocarcinoma"),
        ("What is shown?", "node of lymph", None, "node of lymph"),
    ],
)
def test_the_short_answer_is_bare_and_measured_where_it_can_be(question, text, result, short):
    from slidekick.copilot.answer import Step

    steps = [Step("t1", "count", {"concept": "x"}, result, 0.1)] if result else []
    assert short_answer(question, text, steps) == short


def test_versions_name_the_packages_and_the_model(answer):
    versions = answer("colon").versions
    assert {"slidekick", "numpy", "model"} <= set(versions)
    assert versions["model"] == "scripted"


def test_a_model_from_a_folder_is_named_without_its_path(tiny, segmentor, tmp_path, monkeypatch):
    monkeypatch.setattr("slidekick.copilot.mini.load_generalist", lambda name: tiny)
    folder = tmp_path / "mine"
    folder.mkdir()
    assert Copilot.from_pretrained(str(folder), segmentor).versions["model"] == "mine"


def test_readings_are_as_sure_as_was_fitted_and_unsure_ones_are_marked(segmentor, roi, scripted):
    def told(line, likelihood, confidence):
        engine = scripted(*line)
        turn = engine.turn
        engine.turn = lambda *args, **more: (
            replace(piece, likelihood=likelihood) if isinstance(piece, Turn) else piece for piece in turn(*args, **more)
        )
        return Copilot(engine, segmentor, confidence=confidence).ask(roi, HOW_MANY)

    fitted = Confidence(turn_temperature=2.0, turn_threshold=0.6, risk=0.1)
    unsure, sure = (told(["colon tissue"], p, fitted) for p in (0.5, 0.9))
    assert (unsure.confidence, sure.confidence) == (0.5, 0.75)
    assert "more than 10% are wrong" in " ".join(unsure.warnings)
    assert "unsure" not in " ".join(sure.warnings)
    assert told(["colon tissue"], 0.5, None).confidence == 0.9, "the mean of its tokens"
    assert told([COUNT, "There are 3 nuclei."], 0.5, fitted).confidence == 0.9, "measured, not read"


def test_a_confidence_fitted_for_a_folder_is_taken_up(tiny, segmentor, tmp_path, monkeypatch):
    monkeypatch.setattr("slidekick.copilot.mini.load_generalist", lambda name: tiny)
    assert Copilot.from_pretrained(str(tmp_path), segmentor).confidence is None
    Confidence(temperature=1.5, n=9).save(tmp_path)
    assert Copilot.from_pretrained(str(tmp_path), segmentor).confidence == Confidence(temperature=1.5, n=9)


def test_a_random_model_under_the_grammar_always_gives_an_answer(tiny, segmentor, roi):
    copilot = Copilot(TorchEngine(*tiny, name="tiny", max_new_tokens=60), segmentor)
    result = copilot.ask(roi, "<tool_call> <|im_end|> how many nuclei?")
    assert result.text
    assert json.loads(json.dumps(result.to_dict()))["question"] == "<tool_call> <|im_end|> how many nuclei?"


def test_what_is_said_of_a_region_speaks_of_the_region(segmentor, roi, scripted):
    within = np.zeros(roi.pixels.shape[:2], bool)
    within[:, :30] = True
    call = ToolCall("segment", {"concept": "gland"}).to_text()
    copilot = Copilot(scripted(call, "Glands cover 50% of the picture."), segmentor)
    answer = copilot.ask(roi, "How much is gland?", box=copilot.toolbox(roi, within=within))
    assert "50% of the region" in answer.text
    assert answer.claims[0].supported
    for wrong in (np.zeros_like(within), within[1:], within.astype(int)):
        with pytest.raises(InputError, match="no bool mask"):
            copilot.toolbox(roi, within=wrong)


def test_the_largest_of_a_kind_is_asked_for_in_words(segmentor, roi, scripted):
    call = ToolCall("segment", {"concept": "largest nucleus"}).to_text()
    copilot = Copilot(
        scripted(call, "Largest nucleus was found, in the upper left, covering 1% of the picture."), segmentor
    )
    answer = copilot.ask(roi, "Where is the largest nucleus?")
    assert answer.claims[0].supported
    assert answer.evidence[0].concept == "largest nucleus"
