"""Weighing given answers and decoding in batches: the same as asking one at a time, only quicker."""

import numpy as np
import pytest
import torch

from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError

OPTIONS = ("gland", "a gland was found in the upper left", "no", "tumour", "nuclei count 212")


@pytest.fixture(scope="module")
def engine(tiny):
    return TorchEngine(*tiny, name="tiny", max_new_tokens=24)


def ask(question):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def naive(engine, messages, image, option):
    """The whole conversation through the model at once; log-probabilities summed over the turn and its end."""
    inputs = engine.encode(messages, image, tool_schemas())
    ids = engine.processor.tokenizer(option, add_special_tokens=False)["input_ids"]
    best = -np.inf
    for end in engine.end_tokens:
        turn = torch.tensor([[*ids, end]])
        whole = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        for name, value in list(whole.items()):
            if value.shape[:2] == inputs["input_ids"].shape:  # kinds of tokens, which the turn's text has too
                whole[name] = torch.cat([value, torch.zeros_like(turn).to(value.dtype)], 1)
        whole["input_ids"] = torch.cat([inputs["input_ids"], turn], 1)
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        with torch.inference_mode():
            logs = engine.model(**whole).logits[0].double().log_softmax(-1)
        places = range(inputs["input_ids"].shape[1] - 1, whole["input_ids"].shape[1] - 1)
        best = max(best, sum(float(logs[place, token]) for place, token in zip(places, turn[0], strict=True)))
    return best


@pytest.mark.parametrize("number", [1, 2, len(OPTIONS)])
def test_options_weigh_what_they_do_one_by_one(engine, number):
    messages, image = ask("What is shown?"), picture(0)
    logs = engine.options(messages, image, tool_schemas(), OPTIONS[:number])
    assert logs.dtype == np.float64
    assert logs == pytest.approx([naive(engine, messages, image, option) for option in OPTIONS[:number]], abs=1e-4)


def test_more_options_than_run_at_once_weigh_the_same(engine, monkeypatch):
    messages, image = ask("What is shown?"), picture(0)
    together = engine.options(messages, image, tool_schemas(), OPTIONS)
    monkeypatch.setattr("slidekick.copilot.options.AT_ONCE", 2)
    assert engine.options(messages, image, tool_schemas(), OPTIONS) == pytest.approx(together, abs=1e-5)


def test_the_picture_matters(engine):
    first, again, second = (engine.options(ask("What is shown?"), picture(seed), (), OPTIONS) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_probabilities_of_whole_turns_do_not_exceed_one(engine):
    assert np.exp(engine.options(ask("What?"), picture(0), (), OPTIONS)).sum() <= 1


@pytest.mark.parametrize("options", [(), ("gland", "")])
def test_nothing_to_weigh_is_told(engine, options):
    with pytest.raises(InputError):
        engine.options(ask("What?"), picture(0), (), options)


def test_turns_decoded_together_are_those_decoded_alone(engine):
    asked = [
        (ask(question), picture(seed)) for question in ("What is shown?", "Is there a gland?") for seed in (0, 1, 2)
    ]
    together = engine.turns(asked, tool_schemas())
    for (messages, image), turn in zip(asked, together, strict=True):
        *_, alone = engine.turn(messages, image, tool_schemas())
        assert isinstance(turn, Turn)
        assert (turn.text, turn.complete) == (alone.text, alone.complete)
        assert turn.probability == pytest.approx(alone.probability, abs=1e-4)
        assert [text for text, _ in turn.tokens] == [text for text, _ in alone.tokens]
        assert [p for _, p in turn.tokens] == pytest.approx([p for _, p in alone.tokens], abs=1e-4)
        assert turn.read == alone.read == engine.encode(messages, image, tool_schemas())["input_ids"].shape[1]


def test_a_turn_likelier_than_one_half_is_what_is_written(tiny):
    """Sharpened until one turn is nearly sure: the written turn, weighed, is then above one half."""
    engine = TorchEngine(*tiny, max_new_tokens=24)
    head = engine.model.get_output_embeddings()
    held = head.register_forward_hook(lambda module, args, out: out * 1e4)
    try:
        (turn,) = engine.turns([(ask("What is shown?"), picture(0))], ())
        if turn.complete and turn.text:
            assert np.exp(engine.options(ask("What is shown?"), picture(0), (), [turn.text])[0]) > 0.5
        other = engine.options(ask("What is shown?"), picture(0), (), ["gland"])[0]
        assert turn.text == "gland" or np.exp(other) < 0.5
    finally:
        held.remove()
