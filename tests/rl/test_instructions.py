import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from slidekick.copilot.grammar import ToolCall, parse_turn
from slidekick.copilot.language import quantities
from slidekick.copilot.tools import MAX_CONCEPT, TOOL_NAMES, compact_result
from slidekick.data.items import Item
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure
from slidekick.grounding.train import DEFAULT_CONFIG, load_config
from slidekick.grounding.vocabulary import Concept, Vocabulary
from slidekick.rl.instructions import (
    GENERAL,
    MIX,
    PLURALS,
    QUESTIONS,
    REGIONS,
    SYNONYMS,
    make_instructions,
    question_for,
)

TOOLS = ("count", "segment", "measure")
COUNT = 3000


@pytest.fixture(scope="module")
def made(items):
    return make_instructions(items, COUNT, seed=1)


@pytest.fixture(scope="module")
def called(made):
    """Of every conversation with a tool: question, call, result, closing sentence."""
    told = []
    for one in made:
        if one.task in TOOLS:
            user, call, result, last = one.messages
            function = call["tool_calls"][0]["function"]
            told.append((text_of(user), function, json.loads(text_of(result)), text_of(last)))
    return told


@pytest.fixture(scope="module")
def vocabulary():
    entries = load_config(DEFAULT_CONFIG)["concepts"]
    return Vocabulary([Concept(n, e["kind"], tuple(e["synonyms"]), e["mpp"], e["zoom"]) for n, e in entries.items()])


def text_of(message: dict) -> str:
    (part,) = [part for part in message["content"] if part["type"] == "text"]
    return part["text"]


def test_the_same_seed_makes_the_same_conversations(items, made):
    assert make_instructions(items, COUNT, seed=1) == made
    assert make_instructions(items, COUNT, seed=2) != made


def test_no_conversation_is_about_a_picture_that_was_not_given(items, made):
    given = {(item.set, item.image) for item in items}
    assert {(one.set, one.image) for one in made} <= given
    few = make_instructions(items[:2], 200, seed=1)
    assert {one.image for one in few} == {item.image for item in items[:2]}


def test_tasks_come_in_the_shares_that_mix_states(made):
    assert sum(MIX.values()) == pytest.approx(1)
    counts = Counter(one.task for one in made)
    for task, share in MIX.items():
        spread = (share * (1 - share) / COUNT) ** 0.5
        assert counts[task] / COUNT == pytest.approx(share, abs=4 * spread)


def test_every_conversation_shows_one_picture_and_ends_with_the_assistant(made):
    for one in made:
        first, *rest = one.messages
        assert [part["type"] for part in first["content"]] == ["image", "text"]
        assert "image" not in str([message["content"] for message in rest])
        assert one.messages[-1]["role"] == "assistant"
        assert text_of(one.messages[-1]).strip() == text_of(one.messages[-1]) != ""


def test_labels_are_what_the_items_say(items, made):
    by_image = {item.image: item for item in items}
    labels = defaultdict(set)
    for item in items:
        labels[item.set].add(item.label)
    seen = Counter()
    for one in made:
        item, question, answer = by_image[one.image], text_of(one.messages[0]), text_of(one.messages[-1])
        if one.task == "classify":
            assert answer == item.label
            assert question in (*GENERAL, *QUESTIONS[item.set])
        elif one.task == "options":
            offered = question.removeprefix("Which is it: ").removeprefix("Choose one: ").rstrip("?.").split(", ")
            assert answer == item.label
            assert item.label in offered
            assert set(offered) <= labels[item.set]
            assert len(set(offered)) == len(offered) > 1
        elif one.task == "yes_no":
            assert (answer == "yes") == (item.label in question)
            seen[answer] += 1
        elif one.task == "stain":
            assert answer == "H&E"
        elif one.task == "organ":
            assert answer == item.organ
    assert 0.4 < seen["yes"] / seen.total() < 0.6


def test_organ_and_stain_are_asked_only_where_they_are_known(items):
    bare = [Item(i.set, i.id, i.image, i.split, label=i.label) for i in items]
    for one in make_instructions(bare, 400, seed=3):
        assert "not stated" not in text_of(one.messages[-1])


def test_rare_labels_are_shown_as_often_as_common_ones():
    items = [Item("glas", str(i), Path(f"{i}.png"), "train", label="rare" if i == 0 else "common") for i in range(50)]
    answers = Counter(
        text_of(one.messages[-1]) for one in make_instructions(items, 1000, seed=1) if one.task == "classify"
    )
    assert 0.35 < answers["rare"] / answers.total() < 0.65


def test_every_call_parses_as_the_template_renders_it(made, processor):
    rendered = {}
    for one in made:
        if one.task in TOOLS:
            function = one.messages[1]["tool_calls"][0]["function"]
            rendered[function["name"], function["arguments"]["concept"]] = one.messages[:2]
    for (name, concept), messages in rendered.items():
        prompt = processor.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        text = processor.apply_chat_template(messages, tokenize=False).removeprefix(prompt)
        call = parse_turn(text.removesuffix("<|im_end|>\n"))
        assert call == ToolCall(name, {"concept": concept})
        assert text == call.to_text() + "<|im_end|>\n"  # how the grammar spaces it
        assert name in TOOL_NAMES
        assert 0 < len(concept) <= MAX_CONCEPT


def test_a_sentence_after_a_tool_repeats_its_numbers_and_no_others(called):
    for _, function, result, sentence in called:
        for key in ("count", "area", "diameter", "where"):
            if key in result:
                assert str(result[key]) in sentence, (result, sentence)
        measured = {float(str(v).strip("<% um")) for k, v in result.items() if k in ("count", "area", "diameter")}
        assert {q.value for q in quantities(sentence)} <= measured, (result, sentence)
        if result.get("known") is False:
            assert f'"{function["arguments"]["concept"]}" is not in the vocabulary' in sentence
            assert result["nearest"] in sentence
        elif not result["found"]:
            assert f"No {function['arguments']['concept']} was found" in sentence
        else:
            assert "No " not in sentence


def test_results_have_the_keys_and_the_order_that_the_tools_give(called):
    shape = (40, 40)
    blob = np.zeros(shape, np.int32)
    blob[5:12, 5:12], blob[20:27, 20:27] = 1, 2
    objects = Finding("nucleus", blob > 0, 0.9, 0.9, blob)
    findings = [objects, Finding("tumour", blob > 0, 0.9, 0.9), Finding("gland", blob > 9, 0.0, 0.1)]
    unknown = Finding("unicorn", blob > 9, 0.0, 0.0, known=False, nearest="gland")
    real = {
        tool: {tuple(compact_result(tool, measure(f, mpp))) for f in findings for mpp in (None, (0.5, 0.5))}
        | {tuple(compact_result(tool, unknown))}
        for tool in TOOLS
    }
    told = {tool: {tuple(result) for _, f, result, _ in called if f["name"] == tool} for tool in TOOLS}
    assert told == real


def test_a_question_with_a_word_calls_for_that_word(called):
    for question, function, _, _ in called:
        concept = function["arguments"]["concept"]
        words = {concept, PLURALS.get(concept, concept)} | {word for word, name in SYNONYMS.items() if name == concept}
        # irregular plurals ("mitoses") share at least their beginning with the singular
        assert "escri" in question or any(word[:-2].lower() in question.lower() for word in words), question


def test_conversations_agree_with_what_the_segmentor_is_taught(vocabulary):
    assert set(PLURALS) == set(vocabulary.concepts)
    assert {name for name, concept in vocabulary.concepts.items() if concept.kind == "region"} == set(REGIONS)
    for word, name in [*SYNONYMS.items(), *((many, one) for one, many in PLURALS.items())]:
        assert vocabulary.find(word).name == name


def test_words_taught_as_unknown_are_unknown(called, vocabulary):
    strangers = {f["arguments"]["concept"] for _, f, result, _ in called if result.get("known") is False}
    assert len(strangers) > 40
    assert [word for word in sorted(strangers) if vocabulary.find(word)] == []
    known = {f["arguments"]["concept"] for _, f, result, _ in called if "known" not in result}
    assert known == set(PLURALS)


def test_every_set_with_questions_has_one_wording_of_its_own_that_is_also_taught(items, made):
    assert all(isinstance(wordings, tuple) and wordings for wordings in QUESTIONS.values())
    first = [wordings[0] for wordings in QUESTIONS.values()]
    assert len(set(first)) == len(first)
    for item in items:
        assert question_for(item) == (QUESTIONS[item.set][0] if item.set in QUESTIONS else GENERAL[0])
    asked = Counter((one.set, text_of(one.messages[0])) for one in made if one.task == "classify")
    for name in ("glas", "gbm40"):
        of_set = {question: n for (found, question), n in asked.items() if found == name}
        assert max(of_set, key=of_set.get) == QUESTIONS[name][0]
