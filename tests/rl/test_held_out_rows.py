"""Planted copies of held-out pictures and questions must be found, whatever they are called and wherever they lie."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.rl.instructions import make_instructions
from slidekick.rl.instructions.held_out import leaks, pixel_hash, text_hash, unseen_items, unseen_texts
from slidekick.rl.instructions.material import Plan, gather, make_lessons
from slidekick.rl.instructions.texts import LONGEST, POINTS, READERS, Text, load_texts, tidy
from slidekick.rl.instructions.turns import conversation, said

WHERE = Path("c.yaml")
DATA = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def planted(rich, tmp_path) -> Path:
    """The rich folder with a held-out set, and copies of its rows in training sets."""
    root = tmp_path / "data"
    shutil.copytree(rich, root)
    folder, strange = root / "held", root / "osteosarcoma"
    folder.mkdir()
    rng = np.random.default_rng(9)
    for name in ("val", "test"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{name}.png")
    held = [{"id": s, "image": f"{s}.png", "group": s, "split": s, "label": "x"} for s in ("val", "test")]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, held)))
    Image.open(folder / "val.png").save(strange / "copy.bmp")
    Image.open(folder / "test.png").convert("RGBA").save(strange / "other.png")
    Image.open(strange / "0.png").save(strange / "again.tif")
    with (strange / "items.jsonl").open("a") as lines:
        for name in ("copy.bmp", "other.png", "again.tif"):
            lines.write(
                "\n" + json.dumps({"id": name, "image": name, "split": "train", "label": "viable osteosarcoma"})
            )
    with (root / "text" / "pathvqa" / "items.jsonl").open("a") as lines:
        for row in (
            {"question": "What stains amyloid?", "answer": "Congo red", "split": "test", "source_split": "train"},
            {"question": "what stains  AMYLOID ?", "answer": "congo red.", "split": "train", "source_split": "train"},
            {"question": "What lines the cyst?", "answer": "epithelium", "split": "train", "source_split": "test"},
            {"question": "What lines the cyst?", "answer": "epithelium", "split": "train", "source_split": "train"},
            {"question": "What lines the cyst?", "answer": "mesothelium", "split": "train", "source_split": "train"},
            {"question": "What lines the cyst ?", "answer": "mesothelium", "split": "train", "source_split": "val"},
        ):
            lines.write("\n" + json.dumps({"id": "p", "answer_type": "open", "group": "p", **row}))
    return root


def test_planted_copies_of_held_out_pictures_are_left_out_and_second_copies_too(planted):
    material = gather(planted)
    assert material.dropped_items.held == Counter({"osteosarcoma": 2})
    assert material.dropped_items.twice == Counter({"osteosarcoma": 1})
    hashes = [pixel_hash(item.image) for item in material.items]
    assert not set(hashes) & {pixel_hash(item.image) for item in material.held}
    assert {item.set for item in material.held} == {"held"}


def test_planted_copies_of_held_out_questions_are_left_out_and_second_copies_too(planted):
    material = gather(planted)
    assert material.dropped_texts.held["pathvqa"] == 2
    assert material.dropped_texts.twice["pathvqa"] == 1
    kept = {text.source for text in material.texts if text.set == "pathvqa"}
    assert kept == {
        ("What causes the swelling ?", "oedema"),
        ("Is amyloid blue?", "no"),
        ("What lines the cyst?", "mesothelium"),
    }


def test_what_is_made_of_planted_data_holds_nothing_held_out_and_the_check_would_have_found_it(planted):
    material = gather(planted)
    made = make_instructions(material.items, 1500, 2, texts=material.texts)
    assert leaks(made, material.held, material.all_texts) == []
    picture = conversation("classify", "x", [planted / "osteosarcoma" / "copy.bmp"], said("What is this?", "x"))
    text = conversation("vqa", "x", [], said("What stains amyloid", "congo red"))
    shown = conversation("vqa", "x", [material.items[0].image], said("What stains amyloid", "congo red"))
    assert leaks([picture, text, shown], material.held, material.all_texts) == [picture, text]


def test_a_question_that_repeats_in_another_set_is_found_too():
    row = Text("pathvqa", "1", "vqa", "open", ("Q?", "a"), (("Q?", "a"),), held=True)
    kept, dropped = unseen_texts([row, replace(row, set="pathvqa_book", held=False)])
    assert kept == []
    assert dropped.held == Counter({"pathvqa_book": 1})


def test_a_picture_may_stand_in_two_training_sets_with_a_label_each(items):
    twin = replace(items[0], set="other")
    assert unseen_items([items[0], twin], [])[0] == [items[0], twin]


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=12), min_size=1, max_size=3))
def test_texts_are_equal_without_regard_to_case_space_and_points(parts):
    assert text_hash(parts) == text_hash([f" {part.upper()} . " for part in parts])
    assert text_hash([*parts, "more"]) != text_hash(parts)


@given(st.text(st.sampled_from("ab ,.?\n"), max_size=30))
def test_tidy_text_stays_tidy(text):
    assert tidy(tidy(text)) == tidy(text)
    assert text_hash([tidy(text)]) == text_hash([text])


def test_half_of_the_conversations_are_about_the_sets_in_focus(planted):
    material = gather(planted)
    plan = Plan(400, 3, focus=("glas",))
    made = make_lessons(plan, material)
    assert len(made) == 400
    assert 200 <= sum(one.set == "glas" for one in made) < 330
    assert made == make_lessons(plan, material)
    assert {one.task for one in made[:40]} - {"classify"}  # in an order drawn by chance
    with pytest.raises(InputError, match="no training row of the set 'glass' to focus on"):
        make_lessons(Plan(4, 3, focus=("glass",)), material)


def test_a_set_that_is_held_back_is_nowhere_in_training_but_still_bars_its_test_rows(planted):
    material = gather(planted, ("glas", "pathvqa"))
    made = make_instructions(material.items, 500, 2, texts=material.texts)
    assert not {"glas", "pathvqa"} & {row.set for row in (*material.items, *material.texts, *made)}
    assert material.dropped_items.held == Counter({"osteosarcoma": 2})
    assert any(text.set == "pathvqa" for text in material.all_texts)
    with pytest.raises(InputError, match="no set named 'glass' to hold back; there are bccd"):
        gather(planted, ("glass",))


def test_texts_are_asked_so_that_the_answer_follows(rich):
    by_set = {}
    for text in load_texts(rich):
        by_set.setdefault(text.set, []).append(text)
    assert set(by_set) <= set(READERS)
    open_, closed, pointing = by_set["pathvqa"]
    assert open_.forms == (("What causes the swelling?", "oedema"),)
    assert (closed.label, open_.label, pointing.forms) == ("no", "open", ())
    (train, test) = by_set["pathmmu_socialpath"]
    assert not train.held
    assert test.held
    assert all(
        "Whorled pattern, Rosettes, Palisades" in asked and told == "Whorled pattern" for asked, told in train.forms
    )
    (report,) = by_set["reg2025_reports"]
    answers = {told for _, told in report.forms}
    assert answers >= {"breast", "core-needle biopsy", "Invasive carcinoma of no special type"}
    asked, line = next(form for form in report.forms if form[0].startswith("Write the report line"))
    assert set(re.findall(r"\w+", line.lower())) <= set(re.findall(r"\w+", asked.lower()))


def test_no_text_holds_a_control_token_or_is_long(rich, tmp_path):
    shutil.copytree(rich / "text", tmp_path / "text")
    file = tmp_path / "text" / "pathvqa" / "items.jsonl"
    rows = [{"question": f"What is {mark}?", "answer": "x"} for mark in ("<|im_end|>", "<empty_output>", "w " * 300)]
    file.write_text("\n".join(json.dumps({"id": "1", "split": "train", **row}) for row in rows))
    texts = [text for text in load_texts(tmp_path) if text.set == "pathvqa"]
    assert [text.forms for text in texts] == [(), (), ()]
    assert all(len(" ".join(form)) <= LONGEST for text in load_texts(rich) for form in text.forms)


@pytest.mark.parametrize("line", ['{"id": "1"', '{"id": "1", "split": "train"}', "[]"])
def test_a_broken_row_is_named_with_file_and_line(rich, tmp_path, line):
    shutil.copytree(rich / "text", tmp_path / "text")
    with (tmp_path / "text" / "pathvqa" / "items.jsonl").open("a") as lines:
        lines.write("\n" + line)
    with pytest.raises(InputError, match=r"pathvqa/items.jsonl:4: .*mend or remove the line"):
        load_texts(tmp_path)


def test_a_case_without_a_reading_is_named_with_file_and_line(tmp_path):
    file = tmp_path / "text" / "kidney_diagnoses" / "items.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"id": "1", "split": "train", "readings": [], "original_diagnosis": "x"}))
    with pytest.raises(InputError, match=r"items.jsonl:1: readings is empty; mend or remove the line"):
        load_texts(tmp_path)


def test_questions_that_point_at_a_picture_are_known_by_their_words():
    assert POINTS.search("What does this image show?")
    assert POINTS.search("Where is the lesion seen?")
    assert not POINTS.search("What causes granulomas?")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"count": 5}, "instructions.seed is None"),
        ({"count": 0, "seed": 1}, "instructions.count is 0"),
        ({"count": True, "seed": 1}, "instructions.count is True"),
        ({"count": 5, "seed": 1, "share": {}}, "no key 'share'"),
        ({"count": 5, "seed": 1, "shares": {"sing": 1}}, "no family 'sing'"),
        ({"count": 5, "seed": 1, "shares": {"vqa": -1}}, "share of vqa is -1"),
        ({"count": 5, "seed": 1, "shares": {"vqa": "all"}}, "share of vqa is 'all'"),
        ({"count": 5, "seed": 1, "held_back": "glas"}, "held_back and focus are lists"),
        ({"count": 5, "seed": 1, "focus": "glas"}, "held_back and focus are lists"),
    ],
)
def test_a_section_that_cannot_be_used_is_named_with_the_key(section, told):
    with pytest.raises(InputError, match=told) as caught:
        Plan.read(section, WHERE)
    assert str(caught.value).startswith("c.yaml: ")


def test_a_section_without_any_share_left_is_an_input_error():
    from slidekick.rl.instructions import SHARES

    with pytest.raises(InputError, match="all shares are 0"):
        Plan.read({"count": 5, "seed": 1, "shares": dict.fromkeys(SHARES, 0)}, WHERE)
    plan = Plan.read({"count": 5, "seed": 1, "shares": {"vqa": 0.5}, "held_back": ["glas"]}, WHERE)
    assert plan == Plan(5, 1, {"vqa": 0.5}, ("glas",))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"NO SETS at {DATA}: their instructions were not checked for leaks")
def test_no_instruction_of_the_real_sets_shows_or_says_what_is_held_out():
    material = gather(DATA)
    made = make_instructions(material.items, 3000, 5, texts=material.texts)
    assert leaks(made, material.held, material.all_texts) == []
    assert len({one.set for one in made}) > 40
