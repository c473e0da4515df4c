"""Asking: nothing is asked twice, a break costs one batch, and a sure option need not be written."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.rl.evaluation import asking
from slidekick.rl.evaluation.asking import Ask, Asker, Journal, ask_of
from slidekick.rl.evaluation.changes import BLANK


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for shade in (10, 60, 120):
        paths.append(tmp_path / f"{shade}.png")
        Image.new("RGB", (8, 8), (shade,) * 3).save(paths[-1])
    return paths


def test_a_finished_run_is_not_asked_again(fake, pictures, tmp_path):
    asks = [Ask("What?", path, options=("a", "b")) for path in pictures]
    first, file = fake(lambda *_: "a"), tmp_path / "out" / "answers.jsonl"
    said = Asker(first, Journal(file)).ask(asks, "")
    again = fake(lambda *_: "b")
    assert Asker(again, Journal(file)).ask(asks, "") == said
    assert again.engine.asked == []
    assert [row["own_words"] for row in said] == ["a"] * 3


def test_a_break_costs_what_was_under_way_only(fake, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "BATCH", 1)
    file = tmp_path / "answers.jsonl"

    def breaks(words, pixels):
        if pixels.mean() > 100:
            raise KeyboardInterrupt
        return "a"

    asks = [Ask("What?", path) for path in pictures]
    with pytest.raises(KeyboardInterrupt):
        Asker(fake(breaks), Journal(file)).ask(asks, "")
    goes_on = fake(lambda *_: "c")
    said = Asker(goes_on, Journal(file)).ask(asks, "")
    assert [row["own_words"] for row in said] == ["a", "a", "c"]


def test_a_line_cut_short_is_dropped_and_the_file_goes_on(fake, pictures, tmp_path):
    file, asks = tmp_path / "answers.jsonl", [Ask("What?", path) for path in pictures]
    Asker(fake(lambda *_: "a"), Journal(file)).ask(asks, "")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    Asker(fake(lambda *_: "a"), Journal(file)).ask(asks, "")
    assert file.read_bytes() == whole


def test_a_file_of_something_else_is_told(tmp_path):
    (tmp_path / "answers.jsonl").write_text("[]\n")
    with pytest.raises(InputError, match=r"answers\.jsonl:1"):
        Journal(tmp_path / "answers.jsonl")


def test_equal_questions_are_asked_once(fake, pictures):
    copilot = fake(lambda *_: "a")
    Asker(copilot).ask([Ask("What?", path, BLANK, ("a", "b")) for path in pictures], "")
    assert copilot.engine.asked == ["What?"]


def test_everything_that_could_change_an_answer_changes_the_key(pictures):
    ask = Ask("What?", pictures[0], options=("a",))
    others = [Ask("Where?", pictures[0], options=("a",)), Ask("What?", pictures[1], options=("a",)),
              Ask("What?", pictures[0], "JPEG 50", ("a",)), Ask("What?", pictures[0], options=("b",)),
              Ask("What?", pictures[0], options=("a",), tools=True)]  # fmt: skip
    assert len({one.key("m") for one in (ask, *others)} | {ask.key("other")}) == 7
    assert Ask("What?", None, tools=True).key("m", "t1") != Ask("What?", None, tools=True).key("m", "t2")
    assert ask.key("m", "t1") == ask.key("m", "t2"), "no tool is run, so none can change the answer"


def test_another_engine_is_asked_anew_and_another_check_where_whole_answers_are_checked(fake, pictures, tmp_path):
    journal = Journal()
    asks = [Ask("What?", pictures[0], whole=whole) for whole in (False, True)]

    def new(copilot) -> int:
        before = len(journal.answers)
        Asker(copilot, journal).ask(asks, "")
        return len(journal.answers) - before

    assert new(fake(lambda *_: "a")) == 2
    assert new(fake(lambda *_: "a")) == 0
    checked = fake(lambda *_: "a")
    checked.home = tmp_path
    (tmp_path / "confidence.json").write_text("{}")
    assert new(checked) == 1
    (tmp_path / "sight.safetensors").write_bytes(b"fitted anew")
    checked.engine.__class__ = type("Other", (type(checked.engine),), {})
    assert new(checked) == 2


def test_a_picture_in_bytes_is_the_file_s(pictures):
    ask, same = Ask("What?", pictures[0]), Ask("What?", pictures[0].read_bytes())
    assert ask.key("m") == same.key("m")
    assert np.array_equal(ask.roi().pixels, same.roi().pixels)


def test_options_are_weighed_and_own_words_stand_beside_them(fake, pictures):
    asks = [Ask("What?", pictures[0], options=("a", "b"))]
    sure, unsure = fake(lambda *_: "a", 0.9), fake(lambda *_: "a", 0.4)
    for copilot, written in ((sure, 0), (unsure, 1)):
        (row,) = Asker(copilot).ask(asks, "")
        assert row["own_words"] == "a"
        assert copilot.engine.written == written, "what is likelier than one half need not be written"
        assert len(row["logits"]) == 2
    mixed = fake(lambda *_: "neither")
    mixed.engine.options = lambda *_: np.log([0.1, 0.3])
    (row,) = Asker(mixed).ask(asks, "")
    assert (row["own_words"], row["likeness"]) == ("neither", None)
    np.testing.assert_allclose(row["logits"], np.log([0.1, 0.3]), atol=1e-5)


def test_a_call_is_carried_out_only_where_tools_are_wanted(fake, pictures):
    copilot = fake(lambda *_: '<tool_call>\n{"name": "count", "arguments": {"concept": "x"}}\n</tool_call>')
    copilot.ask = lambda roi, words, **_: fake(lambda *_: "There are 3.").ask(roi, words)
    with_tools, without = Asker(copilot).ask([Ask("How many?", pictures[0], tools=t) for t in (True, False)], "")
    assert with_tools["own_words"] == "There are 3."
    assert without["tool"]
    assert without["own_words"].startswith("<tool_call>")


def test_a_number_that_nobody_measured_is_not_supported(fake, pictures):
    copilot = fake(lambda words, _: "There are 12 nuclei." if words == "a" else "Benign gland.")
    rows = Asker(copilot).ask([Ask(words, pictures[0], tools=True) for words in "ab"], "")
    assert [row["supported"] for row in rows] == [0, 1]


def test_an_engine_without_batches_is_asked_one_by_one(fake, pictures):
    copilot = fake(lambda words, pixels: f"{pixels.mean():.0f}")
    copilot.engine = SimpleNamespace(name="plain", say=copilot.engine.say)
    said = Asker(copilot).ask([Ask("What?", path, options=("a",)) for path in pictures], "")
    assert [row["own_words"] for row in said] == ["10", "60", "120"]
    assert all(row["logits"] is None for row in said)


def test_only_classes_are_weighed(asked):
    assert ask_of(asked[0]).options == asked[0].options
    assert ask_of(replace(asked[0], family="vqa")).options == ()


def test_the_journal_is_lines_of_json(fake, pictures, tmp_path):
    file = tmp_path / "answers.jsonl"
    Asker(fake(lambda *_: "ä\nb"), Journal(file)).ask([Ask("What?", pictures[0])], "")
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["own_words"] == "ä\nb"
