"""mini compiled for CPUs, held against torch: a model of mini's kind in small, made of random numbers."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_mini import make_places

import slidekick.copilot.compiled.engine as module
from slidekick.copilot.compiled import writing
from slidekick.copilot.compiled.engine import CompiledEngine
from slidekick.copilot.compiled.graph import GRAPH, WEIGHTS, quantized
from slidekick.copilot.compiled.guesses import Guesses
from slidekick.copilot.compiled.language import ROOM, Said
from slidekick.copilot.compiled.store import language_graph
from slidekick.copilot.compiled.weights import Shape, read_language
from slidekick.copilot.experts import load_experts
from slidekick.copilot.messages import step_messages, user_message
from slidekick.copilot.mini import load_mini
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
COPIES = {"nucleus": "nucleus", "nuclei": "nucleus", "gland": "gland"}
QUESTIONS = ("How many nuclei are there?", "Is there a gland?", "Describe the picture.")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("compiled"), IMAGE)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory, places):
    """Graphs of these weights are kept apart, and the base is the small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIDEKICK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("slidekick.copilot.mini.base_folder", lambda: places[0])
        patch.setattr(module, "base_folder", lambda: places[0])
        yield Path(os.environ["SLIDEKICK_CACHE"])


@pytest.fixture
def compiled(places):
    return CompiledEngine.from_folder(places[1], "small", COPIES)


@pytest.fixture(scope="module")
def reference(places, cache):
    model, processor = load_mini(places[1])
    aside = {"slide": places[1] / "slides" / "slide"}
    experts = load_experts(model, places[1] / "experts", aside=aside)
    return TorchEngine(model, processor, "small", history=0, experts=experts, copies=COPIES, pads=True)


def asked(words: str) -> list[dict]:
    return [user_message(words, with_image=True)]


def last(engine, words: str, image=IMAGE, **settings) -> Turn:
    return list(engine.turn(asked(words), image, tool_schemas(), **settings))[-1]


def heard(engine, words="There are 3 nuclei.") -> list[dict]:
    result = {"found": True, "count": 3}
    from slidekick.copilot.answer import Step

    return [*asked(QUESTIONS[0]), *step_messages(Step("t1", "count", {"concept": "nucleus"}, result, 0.1))]


@pytest.mark.parametrize(
    "words", [*QUESTIONS, "<|im_end|> <empty_output>", "a\U000f0000<|im_start|>\U000f0001b\ue000", "  \n ", "µ ☃"]
)
def test_prompts_are_those_of_the_reference(compiled, reference, words):
    for messages in (asked(words), [user_message(words, with_image=False)], [*heard(compiled), *asked(words)]):
        for tools in (tool_schemas(), ()):
            theirs = reference.encode(messages, IMAGE, tools)["input_ids"][0].tolist()
            assert compiled.prompts.encode(messages, tools) == theirs


def test_pictures_are_seen_as_the_reference_sees_them(compiled, reference):
    mine = compiled._tokens(IMAGE)[0][0]
    with torch.inference_mode():
        inputs = reference.encode(asked("?"), IMAGE, ())
        theirs = reference.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output[0].numpy()
    assert mine.shape == theirs.shape
    assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("words", QUESTIONS)
def test_the_same_experts_speak(compiled, reference, words):
    mine, theirs = (one.gates(asked(words), IMAGE, tool_schemas()) for one in (compiled, reference))
    assert mine.keys() == theirs.keys()
    assert list(mine.values()) == pytest.approx(list(theirs.values()), abs=0.01)
    assert compiled.speakers == reference.speakers


@pytest.mark.parametrize("words", QUESTIONS)
def test_answers_weigh_what_the_reference_says(compiled, reference, words):
    options = ["yes", "no", "There are 212 nuclei.", "gland", "concept"]
    mine, theirs = (one.options(asked(words), IMAGE, tool_schemas(), options) for one in (compiled, reference))
    assert mine == pytest.approx(theirs, rel=0.02, abs=0.15)
    alike = [one.likeness(IMAGE, options) for one in (compiled, reference)]
    assert alike[0] == pytest.approx(alike[1], abs=0.01)


@pytest.mark.parametrize("expert", ["first", "slide", ""])
def test_one_expert_alone_weighs_as_it_does_in_the_reference(compiled, reference, expert):
    told = [last(one, "Is there a gland?", expert=expert, calls=False).gates for one in (compiled, reference)]
    assert told[0] == told[1] == ({expert: 1.0} if expert else {})
    prompt = compiled._prompt(asked("Is there a gland?"), IMAGE, tool_schemas(), expert)
    logits = compiled._read(prompt, 1)[1].logits
    inputs = reference.encode(asked("Is there a gland?"), IMAGE, tool_schemas())
    with torch.inference_mode(), reference.experts.speaking(reference.experts.alone(expert)):
        theirs = reference.model(**inputs).logits[0, -1].numpy()
    assert np.corrcoef(logits, theirs)[0, 1] > 0.998
    assert np.abs(logits - theirs).max() < 0.1 * np.abs(theirs).max()


def test_a_turn_is_told_in_pieces_and_once_more_as_a_whole(compiled):
    *pieces, turn = compiled.turn(asked(QUESTIONS[1]), IMAGE, tool_schemas())
    assert isinstance(turn, Turn)
    assert "".join(pieces).strip() == turn.text
    assert turn.read == len(compiled.prompts.encode(asked(QUESTIONS[1]), tool_schemas()))
    assert 0 < turn.probability <= 1
    assert len(turn.gates) == 2


def test_forced_tokens_change_nothing_but_the_number_of_steps(compiled, monkeypatch):
    """A call written with the grammar's tokens at once is the one written token by token, as likely each time."""
    steps = []
    monkeypatch.setattr(module.Cache, "step", _counted(module.Cache.step, steps))
    monkeypatch.setattr(Guesses, "after", lambda *_: [])
    calls = {words: last(compiled, words) for words in QUESTIONS}
    together = len(steps)
    compiled._kept.clear()
    steps.clear()
    monkeypatch.setattr(writing.TurnMatcher, "forced", lambda self: [])
    for words, call in calls.items():
        one = last(compiled, words)
        assert one.text == call.text
        assert [p for _, p in one.tokens] == pytest.approx([p for _, p in call.tokens], abs=0.02)
    if any("<tool_call>" in call.text for call in calls.values()):
        assert together < len(steps)


def test_guesses_change_nothing_but_the_number_of_steps(places, monkeypatch):
    """Right ones save steps; wrong ones, wherever they turn wrong, leave no trace in words, odds or what is kept."""
    engine, steps, after = CompiledEngine.from_folder(places[1], "small", COPIES), [], Guesses.after
    assert not engine.guesses.followed
    monkeypatch.setattr(module.Cache, "step", _counted(module.Cache.step, steps))
    monkeypatch.setattr(Guesses, "after", lambda *_: [])
    plain = [last(engine, words, calls=False) for words in QUESTIONS]
    alone, rng = len(steps), np.random.default_rng(0)

    said = [[*engine.prompts.ids(one.text), engine.end_tokens[0]] for one in plain]
    engine.guesses = Guesses.of_turns(said, often=1)

    def amiss(self, ids, prompt, ends, most):
        made = after(self, ids, prompt, ends, most)
        return [one if rng.random() < 0.6 else int(rng.integers(3, 300)) for one in made]

    for guess in (after, amiss):
        monkeypatch.setattr(Guesses, "after", guess)
        for words, one in zip(QUESTIONS, plain, strict=True):
            engine._kept.clear()
            steps.clear()
            again = last(engine, words, calls=False)
            assert again.text == one.text
            assert [p for _, p in again.tokens] == pytest.approx([p for _, p in one.tokens], abs=0.02)
            (cache, _), ids = engine._kept[key := list(engine._kept)[-1]], key[1]
            assert cache.length == len(ids)
    assert sum(len(one.tokens) for one in plain) > 3 * 8  # else there is little to guess
    monkeypatch.setattr(Guesses, "after", after)
    engine._kept.clear()
    steps.clear()
    assert [last(engine, words, calls=False).text for words in QUESTIONS] == [one.text for one in plain]
    assert len(steps) < 0.6 * alone


def _counted(step, steps):
    def counting(self, embeds, said=1):
        steps.append(embeds.shape)
        return step(self, embeds, said)

    return counting


def test_turns_written_together_are_those_written_alone(compiled, places):
    alone = [last(compiled, words) for words in QUESTIONS]
    calls = [True, False, True]
    other = 255 - IMAGE
    fresh = CompiledEngine.from_folder(places[1], "small", COPIES)
    mixed = fresh.turns(
        [(asked(words), image) for words, image in zip(QUESTIONS, (IMAGE, other, IMAGE), strict=True)],
        tool_schemas(),
        calls,
        [None, "second", None],
    )
    assert mixed[0].text == alone[0].text
    assert mixed[2].text == alone[2].text
    assert mixed[1].gates == {"second": 1.0}
    assert mixed[1].text == last(compiled, QUESTIONS[1], other, calls=False, expert="second").text
    assert compiled.turns([], tool_schemas()) == []


def test_more_than_fit_together_are_written_in_parts(compiled, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 2)
    turns = compiled.turns([(asked(words), IMAGE) for words in QUESTIONS], tool_schemas())
    assert [one.text for one in turns] == [last(compiled, words).text for words in QUESTIONS]


def test_what_is_kept_of_a_prompt_saves_reading_and_changes_nothing(compiled, monkeypatch):
    first = last(compiled, QUESTIONS[0])
    steps = []
    monkeypatch.setattr(module.Cache, "step", _counted(module.Cache.step, steps))
    assert last(compiled, QUESTIONS[0]) == first
    assert all(shape[1] < 20 for shape in steps), "the prompt is not read again"
    steps.clear()
    behind = list(compiled.turn(heard(compiled), IMAGE, tool_schemas()))[-1]
    assert steps[0][1] < behind.read - 20, "what follows is read alone"
    compiled._kept.clear()
    steps.clear()
    again = list(compiled.turn(heard(compiled), IMAGE, tool_schemas()))[-1]
    assert steps[0][1] == behind.read
    assert again.text == behind.text
    assert again.probability == pytest.approx(behind.probability, abs=0.02)


def test_what_is_kept_may_be_longer_than_there_is_room_for(compiled):
    """A question that begins as a longer one did, asked beside others: room is made for its prompt and a token."""
    short, long = "How many?", f"How many {'nuclei and ' * 60}glands?"
    alone = {"calls": False, "expert": ""}  # no experts, so that both begin alike
    wanted = last(compiled, short, **alone).text
    compiled._kept.clear()
    read = last(compiled, long, **alone).read
    (turn,) = compiled.turns([(asked(short), IMAGE)], tool_schemas(), [False], [""])
    assert read > -(-turn.read // ROOM) * ROOM
    assert turn.text == wanted


def test_another_picture_of_the_same_pixels_but_another_shape_is_another(compiled):
    tall = IMAGE.reshape(70, 50, 3)
    assert compiled._tokens(IMAGE)[1] != compiled._tokens(tall)[1]
    for number in range(module.SEEN + 2):
        compiled._tokens(np.full((8, 8, 3), number, np.uint8))
    assert len(compiled._seen) == module.SEEN


def test_at_most_so_many_prompts_are_kept(compiled):
    for number in range(module.KEPT + 2):
        last(compiled, f"Which of {number} nuclei?", calls=False)
    assert len(compiled._kept) == module.KEPT


def test_a_call_that_was_written_is_not_read_again(compiled, monkeypatch):
    """What follows a turn stands behind its tokens, which are kept."""
    turn = last(compiled, QUESTIONS[0], calls=False)
    said = [*asked(QUESTIONS[0]), {"role": "assistant", "content": turn.text}, *asked("Why?")[:1]]
    steps = []
    monkeypatch.setattr(module.Cache, "step", _counted(module.Cache.step, steps))
    going = list(compiled.turn(said, IMAGE, tool_schemas(), expert=""))[-1]
    assert steps[0][1] == going.read, "other experts speak: nothing is shared"
    steps.clear()
    prompt = compiled._prompt(asked(QUESTIONS[0]), IMAGE, tool_schemas())
    longest = max(len(ids) for key, ids in compiled._kept if key == prompt.key)
    assert longest > len(prompt.ids)


def test_leaving_early_stops_the_model_and_leaves_it_usable(compiled):
    going = compiled.turn(asked(QUESTIONS[2]), IMAGE, tool_schemas())
    next(going)
    going.close()
    assert last(compiled, QUESTIONS[2]).text


def test_the_longest_answer_is_cut_and_says_so(compiled):
    compiled.max_new_tokens = 3
    for turn in (last(compiled, QUESTIONS[0]), *compiled.turns([(asked(QUESTIONS[0]), IMAGE)] * 2, tool_schemas())):
        assert not turn.complete
        assert len(turn.tokens) == 3


def test_a_question_beyond_what_fits_is_told_alone_and_beside_others(compiled, monkeypatch):
    with pytest.raises(InputError, match=r"tokens long; \d+ fit"):
        last(compiled, "nuclei " * 4000)
    with pytest.raises(InputError, match="option 2 is empty"):
        compiled.options(asked("?"), IMAGE, (), ["yes", ""])
    with pytest.raises(InputError, match="no option"):
        compiled.likeness(IMAGE, [])
    monkeypatch.setattr(compiled.language, "longest", last(compiled, QUESTIONS[0]).read + compiled.max_new_tokens - 1)
    with pytest.raises(InputError, match=r"tokens long; \d+ fit"):
        compiled.turns([(asked(QUESTIONS[0]), IMAGE)] * 2, tool_schemas())


def test_without_experts_the_base_speaks(places, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "tower.safetensors"):
        (folder / name).write_bytes((places[1] / name).read_bytes())
    plain = CompiledEngine.from_folder(folder, "plain", {})
    turn = last(plain, QUESTIONS[0], calls=False)
    assert turn.gates == plain.gates(asked("?"), IMAGE, ()) == {}
    assert plain.speakers == ()
    assert not plain.reads_slides


def test_quantized_rows_are_near_and_use_the_whole_range():
    weight = np.random.default_rng(1).normal(size=(7, 128)).astype(np.float32)
    weight[3, :64] = 0
    values, scales = quantized(weight, 64)
    back = ((values.astype(np.float32) - 128) * scales[..., None]).reshape(weight.shape)
    steps = np.repeat(np.abs(scales), 64, axis=1)
    assert (np.abs(back - weight) <= steps * 0.5001 + (steps * (values.reshape(weight.shape) == 255))).all()
    assert (values[weight.reshape(7, 2, 64).any(-1)].min(-1) == 0).all()


def test_a_graph_is_written_once_and_anew_where_writing_was_cut_off(places, cache, capsys):
    base, folder = places
    target = language_graph(base, folder, {})
    assert "Preparing mini" in capsys.readouterr().err
    assert language_graph(base, folder, {}) == target
    assert capsys.readouterr().err == ""
    (target / GRAPH).unlink()
    (target / WEIGHTS).write_bytes(b"cut off")
    assert language_graph(base, folder, {}) == target
    assert (target / GRAPH).is_file()
    assert (target / WEIGHTS).stat().st_size > 1000
    assert not list(target.parent.glob(".*"))


def test_another_scale_is_another_graph(places, cache, tmp_path):
    names, changed = {language_graph(*places, {})}, shutil.copytree(places[1], tmp_path / "changed")
    for place in (changed / "adapter_config.json", changed / "experts" / "experts.json"):
        place.write_text(json.dumps(json.loads(place.read_text()) | {"alpha": 4, "lora_alpha": 4}))
        names.add(language_graph(places[0], changed, {}))
    assert len(names) == 3


def test_the_graphs_used_last_are_kept(places, cache, monkeypatch):
    base, folder = places
    used = language_graph(base, folder, {})
    others = [cache / "graphs" / f"language-{number}" for number in range(6)]
    for number, one in enumerate(others):
        one.mkdir()
        os.utime(one, (number, number))
    shutil.rmtree(used)
    assert language_graph(base, folder, {}) == used
    left = {one.name for one in (cache / "graphs").glob("language-*")}
    assert used.name in left
    assert len(left) == 4
    assert {"language-0", "language-1", "language-2"}.isdisjoint(left)
    for one in others:
        shutil.rmtree(one, ignore_errors=True)


def test_weights_that_do_not_fit_are_told_in_one_line(places, tmp_path):
    base, folder = places
    for name in ("tower.safetensors", "adapter_model.safetensors"):
        (cut := shutil.copytree(folder, tmp_path / f"cut-{name}") / name).write_bytes(b"cut")
        with pytest.raises(InputError, match=rf"{name}.*train it anew$"):
            load_mini(cut.parent)
    with pytest.raises(InputError, match="not mini's weights") as caught:
        read_language(base, tmp_path, {})
    assert "\n" not in str(caught.value)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="not mini's weights"):
        read_language(base, tmp_path, {})
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["model_type"] = "qwen2"
    with pytest.raises(InputError, match="a qwen2 language model cannot be compiled"):
        Shape.read(config)


@given(seed=st.integers(0, 400), error=st.floats(0, 0.3))
@settings(deadline=None)
def test_shares_of_a_whole_are_never_more_than_it_whatever_the_heads_error(seed, error):
    """Told with what 8 bits made of the other tokens, a sure token once had a probability of 1.1."""
    rng = np.random.default_rng(seed)
    table, state = rng.normal(size=(50, 8)).astype(np.float16), rng.normal(size=8).astype(np.float32) * 3
    exact = table.astype(np.float32) @ state
    said = Said(exact + rng.normal(0, error, 50).astype(np.float32), state, table)
    odds = said.log_odds(range(50))
    assert odds.max() <= 1e-6
    best = int(exact.argmax())
    true = exact.astype(float) - np.log(np.exp(exact.astype(float)).sum())
    assert said.log_odds([best])[0] == pytest.approx(true[best], abs=0.05)
    assert said.log_odds([best, 0])[0] == pytest.approx(said.log_odds([best])[0], abs=0.05)
