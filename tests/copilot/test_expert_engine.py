"""The torch engine with a mixture of experts, on tiny random models of mini's kind and of Qwen's."""

import numpy as np
import pytest
import torch

from slidekick.copilot.experts import ExpertPlan, Experts, pooled_picture, question_ids
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.copilot.turn import Turn

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
NAMES = ("cells", "tissue", "words")


@pytest.fixture(scope="module")
def engine(own_tiny):
    model, processor = own_tiny
    plan = ExpertPlan(NAMES, rank=2, alpha=4, targets=r".*language_model.*\.(q_proj|v_proj)")
    experts = Experts(model, plan, 32, 32)
    torch.manual_seed(1)
    for parameter in experts.trainable():
        parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    return TorchEngine(model, processor, max_new_tokens=12, experts=experts.eval())


def ask(question: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def turn(engine, question: str, image=IMAGE) -> Turn:
    return list(engine.turn(ask(question), image, tool_schemas(), calls=False))[-1]


def test_a_turn_tells_who_spoke(engine):
    gates = turn(engine, "How many nuclei?").gates
    assert set(gates) < set(NAMES)
    assert len(gates) == engine.experts.plan.top
    assert sum(gates.values()) == pytest.approx(1, abs=1e-3)
    assert engine.experts._gates.now is None, "silent between turns"


def test_gates_hang_on_the_question_and_on_the_picture(engine):
    one = turn(engine, "How many nuclei?")
    assert turn(engine, "How many nuclei?") == one
    assert turn(engine, "upper left, covering the picture").gates != one.gates
    with torch.inference_mode():
        seen = [pooled_picture(engine.model, engine.encode(ask("Which?"), image, ())) for image in (IMAGE, 0 * IMAGE)]
        scores = [engine.experts.route(picture, torch.zeros(1, 32))[1] for picture in seen]
    assert not torch.equal(*scores)  # how far apart is up to training: a random tower hardly tells pictures apart


def test_the_picture_seen_for_the_gates_is_the_one_the_model_is_given(engine):
    """Features that were made once for both give what the model makes of the pixels."""
    with torch.inference_mode():
        inputs = engine.encode(ask("What is shown?"), IMAGE, ())
        plain = engine.model(**inputs).logits
        pooled_picture(engine.model, inputs)
        assert "pixel_values" not in inputs
        torch.testing.assert_close(engine.model(**inputs).logits, plain)


def test_a_prompt_without_a_picture_is_routed_by_its_words(engine):
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is a gland?"}]}]
    *_, said = engine.turn(messages, IMAGE, (), calls=False)
    assert sum(said.gates.values()) == pytest.approx(1, abs=1e-3)


def test_the_router_reads_the_last_question(engine):
    tokenizer = engine.processor.tokenizer
    messages = [*ask("What is shown?"), {"role": "assistant", "content": "a gland"}, *ask("How many nuclei?")]
    assert question_ids(messages, tokenizer) == tokenizer("How many nuclei?", add_special_tokens=False)["input_ids"]
    assert question_ids([{"role": "user", "content": "gland"}], tokenizer)
    assert question_ids([], tokenizer) == []


def test_turns_and_options_speak_with_the_experts_too(engine):
    asked = [(ask("How many nuclei?"), IMAGE), (ask("upper left, covering the picture"), IMAGE)]
    asked.append((ask("nuclei? How many"), IMAGE[::-1].copy()))  # as long as the first, so they are decoded together
    asked.append(asked[0])
    several = engine.turns(asked, tool_schemas())
    alone = [list(engine.turn(messages, image, tool_schemas()))[-1] for messages, image in asked]
    assert [(one.text, one.gates) for one in several] == [(one.text, one.gates) for one in alone]
    for name in ("probability", "likelihood"):
        assert [getattr(one, name) for one in several] == pytest.approx([getattr(one, name) for one in alone], rel=1e-4)
    options = ["a gland", "212 nuclei"]
    heard = engine.options(*asked[0], tool_schemas(), options)
    silent = TorchEngine(engine.model, engine.processor).options(*asked[0], tool_schemas(), options)
    assert np.isfinite(heard).all()
    assert not np.allclose(heard, silent, atol=1e-3)
