import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.copilot.answer import Evidence, Step
from slidekick.copilot.evidence import check_text
from slidekick.copilot.grammar import ToolCall, parse_turn
from slidekick.copilot.language import quantities
from slidekick.copilot.tools import MAX_CONCEPT, TOOL_NAMES, compact_result
from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure
from slidekick.rl.instructions import (
    FAMILIES,
    GENERAL,
    QUESTIONS,
    SHARES,
    make_instructions,
    other_wordings,
    question_for,
    wording,
)
from slidekick.rl.instructions.concepts import is_region, names, phrasings, strangers, vocabulary
from slidekick.rl.instructions.make import quotas
from slidekick.rl.instructions.material import gather
from slidekick.rl.instructions.turns import text_of

COUNT = 4000


@pytest.fixture(scope="module")
def material(rich):
    return gather(rich)


@pytest.fixture(scope="module")
def made(material):
    return make_instructions(material.items, COUNT, 1, texts=material.texts)


@pytest.fixture(scope="module")
def called(made):
    """Of every conversation with tools and one question: family, question, calls with their results, last sentence."""
    told = []
    for one in made:
        asked = [message for message in one.messages if message["role"] == "user"]
        calls = [m["tool_calls"][0]["function"] for m in one.messages if m.get("tool_calls")]
        results = [json.loads(text_of(m)) for m in one.messages if m["role"] == "tool"]
        if calls and len(asked) == 1:
            pairs = list(zip(calls, results, strict=True))
            told.append((one.task, text_of(asked[0]), pairs, text_of(one.messages[-1])))
    return told


def test_the_same_seed_makes_the_same_conversations(material, made):
    assert make_instructions(material.items, COUNT, 1, texts=material.texts) == made
    assert make_instructions(material.items, COUNT, 2, texts=material.texts) != made


def test_no_conversation_is_about_a_picture_that_was_not_given(items, material, made):
    given_ = {(item.set, item.image) for item in material.items}
    assert {(one.set, image) for one in made for image in one.images} <= given_
    few = make_instructions(items[:2], 200, 1)
    assert {image for one in few for image in one.images} == {item.image for item in items[:2]}


def test_families_come_in_the_shares_that_are_stated_to_the_conversation(made):
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(SHARES) == set(FAMILIES)
    assert Counter(one.task for one in made) == {name: round(share * COUNT) for name, share in SHARES.items()}


def test_other_shares_are_kept_and_a_family_without_rows_hands_its_share_on(items, caplog):
    shares = {**dict.fromkeys(SHARES, 0), "classify": 1, "count": 1, "report": 1}
    bare = [Item(i.set, i.id, i.image, i.split, label=i.label) for i in items]  # no organ: no report line
    assert Counter(one.task for one in make_instructions(bare, 100, 1, shares)) == {"classify": 50, "count": 50}
    assert "report" in caplog.text
    with pytest.raises(InputError, match="no picture and no text to ask about for report"):
        make_instructions(bare, 100, 1, {**dict.fromkeys(SHARES, 0), "report": 1})


@given(st.dictionaries(st.text(max_size=3), st.floats(0.01, 1e3), min_size=1, max_size=9), st.integers(1, 5000))
def test_quotas_add_up_and_are_right_to_the_whole_number(shares, count):
    numbers = quotas(shares, count)
    assert sum(numbers.values()) == count
    for name, share in shares.items():
        assert abs(numbers[name] - count * share / sum(shares.values())) < 1 + 1e-6


def test_pictures_stand_before_the_first_question_and_the_assistant_has_the_last_word(made):
    shown = Counter()
    for one in made:
        first, *rest = one.messages
        assert [part["type"] for part in first["content"]] == ["image"] * len(one.images) + ["text"]
        assert "image" not in [part["type"] for message in rest for part in message["content"]]
        assert one.messages[-1]["role"] == "assistant"
        assert text_of(one.messages[-1]).strip() == text_of(one.messages[-1]) != ""
        shown[len(one.images)] += 1
    assert set(shown) == {0, 1, 2}


def test_rare_labels_are_shown_as_often_as_common_ones():
    items = [Item("glas", str(i), Path(f"{i}.png"), "train", label="rare" if i == 0 else "common") for i in range(50)]
    shares = {**dict.fromkeys(SHARES, 0), "classify": 1}
    answers = Counter(text_of(one.messages[-1]) for one in make_instructions(items, 1000, 1, shares))
    assert 0.35 < answers["rare"] / answers.total() < 0.65


def test_every_call_parses_as_the_template_renders_it(made, processor):
    rendered = {}
    for one in made:
        if one.messages[1].get("tool_calls"):
            function = one.messages[1]["tool_calls"][0]["function"]
            rendered[function["name"], function["arguments"]["concept"]] = one.messages[:2]
    assert len(rendered) > 100
    for (name, concept), messages in rendered.items():
        prompt = processor.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        text = processor.apply_chat_template(messages, tokenize=False).removeprefix(prompt)
        call = parse_turn(text.removesuffix("<|im_end|>\n"))
        assert call == ToolCall(name, {"concept": concept})
        assert text == call.to_text() + "<|im_end|>\n"  # how the grammar spaces it
        assert name in TOOL_NAMES
        assert 0 < len(concept) <= MAX_CONCEPT


def test_a_sentence_after_a_tool_repeats_its_numbers_and_no_others(called):
    for task, _, pairs, sentence in called:
        measured = set()
        for function, result in pairs:
            told = [key for key in ("count", "area", "diameter", "where") if key in result]
            for key in set(told) - ({"where"} if task == "compare" else set()):  # areas alone are compared
                assert str(result[key]) in sentence, (result, sentence)
            measured |= {float(str(v).strip("<% um")) for k, v in result.items() if k in ("count", "area", "diameter")}
            if result.get("known") is False:
                assert f'"{function["arguments"]["concept"]}" is not in the vocabulary' in sentence
                assert result["nearest"] in sentence
            elif not result["found"]:
                assert f"No {function['arguments']['concept']} was found" in sentence
        body = sentence.partition(". ")[2] if task == "describe" else sentence
        assert {q.value for q in quantities(body)} <= measured, (pairs, sentence)


def evidence_of(pairs) -> tuple[list[Step], list[Evidence]]:
    """What the tools would have left behind for these results."""
    steps, evidence = [], []
    for number, (function, result) in enumerate(pairs):
        concept, step = function["arguments"]["concept"], f"t{number}"
        steps.append(Step(step, function["name"], function["arguments"], result, 0.0))
        kinds = {"presence": (0.9, "probability")}
        if "count" in result:
            kinds["count"] = (result["count"], "objects")
        if "area" in result:
            kinds["area_fraction"] = (0.004 if "<" in result["area"] else float(result["area"][:-1]) / 100, "fraction")
        if "diameter" in result:
            kinds["diameter"] = (float(result["diameter"].split()[0]), "um")
        for kind, (value, unit) in kinds.items():
            evidence.append(Evidence(f"{step}{kind}", kind, concept, value, unit, result["found"], step, None))
    return steps, evidence


def test_whatever_is_taught_after_a_tool_passes_the_evidence_check(called):
    families = Counter()
    for task, _, pairs, sentence in called:
        claims, reasons = check_text(sentence, *evidence_of(pairs))
        assert all(claim.supported for claim in claims), (sentence, reasons)
        families[task] += 1
    assert {"count", "segment", "measure", "compare", "describe", "detect"} <= set(families)


def test_results_have_the_keys_and_the_order_that_the_tools_give(called):
    blob = np.zeros((40, 40), np.int32)
    blob[5:12, 5:12], blob[20:27, 20:27] = 1, 2
    objects = Finding("nucleus", blob > 0, 0.9, 0.9, blob)
    findings = [objects, Finding("tumour", blob > 0, 0.9, 0.9), Finding("gland", blob > 9, 0.0, 0.1)]
    unknown = Finding("unicorn", blob > 9, 0.0, 0.0, known=False, nearest="gland")
    real = {
        tool: {tuple(compact_result(tool, measure(f, mpp))) for f in findings for mpp in (None, (0.5, 0.5))}
        | {tuple(compact_result(tool, unknown))}
        for tool in TOOL_NAMES
    }
    told = defaultdict(set)
    for _, _, pairs, _ in called:
        for function, result in pairs:
            told[function["name"]].add(tuple(result))
    assert told == real


def test_a_question_with_a_word_calls_for_that_word_in_the_singular(called):
    words = {word: w.one for name in names() for w in phrasings(name) for word in (w.one, w.many)}
    words |= {word: w.one for w in strangers() for word in (w.one, w.many)}
    for task, question, pairs, _ in called:
        if task != "describe":
            named = {argument for word, argument in words.items() if word.lower() in question.lower()}
            assert {function["arguments"]["concept"] for function, _ in pairs} <= named, question


def test_every_concept_of_the_card_is_asked_for_in_several_phrasings(called):
    asked, meant = defaultdict(set), {word.one: name for name in names() for word in phrasings(name)}
    for _, _, pairs, _ in called:
        for function, _ in pairs:
            word = function["arguments"]["concept"]
            asked[meant.get(word)].add(word)
    del asked[None]  # strangers
    assert set(asked) == set(vocabulary().concepts)
    assert min(len(found) for found in asked.values()) >= 2
    assert {name for name in names() if is_region(name)} == {
        name for name, concept in vocabulary().concepts.items() if concept.kind == "region"
    }


def test_phrasings_mean_their_concept_on_the_card_and_strangers_mean_nothing_there():
    for name in names():
        for word in phrasings(name):
            found = {known.name for text in (word.one, word.many) if (known := vocabulary().find(text))}
            assert found == {name}, word
    assert len(strangers()) > 60
    assert not [word for word in strangers() if vocabulary().find(word.one) or vocabulary().find(word.many)]


def test_words_outside_the_card_get_the_unknown_result_and_known_ones_never(called):
    unknown = {f["arguments"]["concept"] for _, _, pairs, _ in called for f, r in pairs if r.get("known") is False}
    known = {f["arguments"]["concept"] for _, _, pairs, _ in called for f, r in pairs if "known" not in r}
    assert len(unknown) > 40
    assert unknown <= {word.one for word in strangers()}
    assert set(names()) <= known <= {word.one for name in names() for word in phrasings(name)}


def test_evaluation_also_asks_in_words_that_are_never_taught(made):
    taught = {text_of(message) for one in made for message in one.messages if message["role"] == "user"}
    for name in QUESTIONS:
        others = other_wordings(name)
        assert len(set(others)) == len(others) >= 3
        assert QUESTIONS[name][0] not in others
        assert len(set(others) - set(wording.taught(name))) == 2
        assert not set(others[-2:]) & taught


def test_every_set_with_questions_has_one_wording_of_its_own_that_is_also_taught(material, made):
    assert all(isinstance(wordings, tuple) and wordings for wordings in QUESTIONS.values())
    first = [wordings[0] for wordings in QUESTIONS.values()]
    assert len(set(first)) == len(first)
    for item in material.items:
        assert question_for(item) == (QUESTIONS[item.set][0] if item.set in QUESTIONS else GENERAL[0])
    asked = Counter((one.set, text_of(one.messages[0])) for one in made if one.task == "classify")
    for name in ("glas", "pbc_wbc_attributes", "osteosarcoma"):
        of_set = {question: n for (found, question), n in asked.items() if found == name}
        assert max(of_set, key=of_set.get) == QUESTIONS[name][0]
