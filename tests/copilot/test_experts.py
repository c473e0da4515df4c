"""The mixture of experts on a tiny language model: gates, losses, PEFT folders, what is refused."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.copilot.experts import (
    ABOUT,
    ExpertPlan,
    Experts,
    balance_loss,
    information_loss,
    load_experts,
    mean_embedding,
    top_gates,
    z_loss,
)
from slidekick.data.errors import InputError

TARGETS = r"model\.layers\.\d+\.self_attn\.[qv]_proj"
PICTURE, WORDS = 12, 16


def tiny():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WORDS, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=50,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def plan(*names: str, **more) -> ExpertPlan:
    return ExpertPlan(
        names=names or ("cells", "tissue", "words"), **({"rank": 2, "alpha": 4, "targets": TARGETS} | more)
    )


def taught(model, *names: str, **more) -> Experts:
    """Experts that say something: their outer matrices are zero when they are new."""
    experts = Experts(model, plan(*names, **more), PICTURE, WORDS)
    torch.manual_seed(1)
    for parameter in experts.trainable():
        parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    return experts.eval()


IDS = torch.arange(10).view(2, 5)


@torch.inference_mode()
def logits(model, experts=None, gates=None):
    if experts is None:
        return model(IDS).logits
    with experts.speaking(gates):
        return model(IDS).logits


rows = st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=1, max_size=5)


@settings(deadline=None)
@given(rows, st.integers(1, 6))
def test_gates_add_up_to_1_over_the_best_experts(values, top):
    scores = torch.tensor(values)
    gates = top_gates(scores, top)
    torch.testing.assert_close(gates.sum(1), torch.ones(len(values)))
    assert ((gates > 0).sum(1) <= top).all()
    for given_gates, row in zip(gates, scores, strict=True):
        assert row[given_gates > 0].min() >= row[given_gates == 0].max() if (given_gates == 0).any() else True


@settings(deadline=None)
@given(rows)
def test_balance_is_1_for_even_use_and_no_less_for_one_expert(values):
    scores = torch.tensor(values)
    even = torch.zeros(4, 4)
    assert balance_loss(even, torch.full((4, 4), 0.25)).item() == pytest.approx(1)
    alone = torch.full((len(values), 4), -30.0)
    alone[:, 2] = 30
    assert balance_loss(alone, top_gates(alone, 1)).item() == pytest.approx(4)
    assert balance_loss(scores, top_gates(scores, 1)) >= 0
    assert z_loss(scores) >= 0
    assert z_loss(scores + 10) > z_loss(scores.abs() * 0)


def test_new_experts_change_nothing_and_are_silent_outside_their_turn():
    model = tiny()
    before = logits(model)
    experts = Experts(model, plan(), PICTURE, WORDS)
    torch.testing.assert_close(logits(model), before)
    torch.testing.assert_close(logits(model, experts, torch.full((2, 3), 1 / 3)), before)
    spoken = taught(tiny_again := tiny())
    assert not torch.allclose(logits(tiny_again, spoken, torch.full((2, 3), 1 / 3)), before, atol=1e-3)
    torch.testing.assert_close(logits(tiny_again), before)
    with pytest.raises(ValueError, match="stop"), spoken.speaking(torch.ones(2, 3)):
        raise ValueError("stop")
    torch.testing.assert_close(logits(tiny_again), before)


def test_each_expert_is_a_peft_folder_that_says_the_same_alone(tmp_path):
    from peft import PeftModel

    model = tiny()
    experts = taught(model)
    experts.save(tmp_path, "tiny")
    for number, name in enumerate(experts.plan.names):
        gates = torch.zeros(2, 3)
        gates[:, number] = 1
        alone = PeftModel.from_pretrained(tiny(), str(tmp_path / name)).eval()
        with torch.inference_mode():
            torch.testing.assert_close(alone(IDS).logits, logits(model, experts, gates), rtol=2e-3, atol=2e-3)


def test_a_mixture_is_the_sum_of_its_weighed_experts_in_each_row_by_itself():
    model = tiny()
    experts = taught(model)
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 5, WORDS)
    gates = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    with experts.speaking(gates), torch.inference_mode():
        mixed = layer(x)
    with torch.inference_mode():
        wanted = layer.base(x)
        for number in range(3):
            part = slice(2 * number, 2 * number + 2)
            wanted = wanted + gates[:, number, None, None] * 2.0 * (x @ layer.down[part].T @ layer.up[:, part].T)
    torch.testing.assert_close(mixed, wanted)


def test_what_is_saved_comes_back_whole_or_in_part(tmp_path):
    model = tiny()
    experts = taught(model)
    experts.save(tmp_path, "tiny")
    question, picture = torch.randn(2, WORDS), torch.randn(2, PICTURE)
    gates, scores = experts.route(picture, question)
    again = tiny()
    loaded = load_experts(again, tmp_path)
    torch.testing.assert_close(loaded.route(picture, question)[0], gates, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(logits(again, loaded, gates), logits(model, experts, gates), rtol=2e-2, atol=2e-2)
    fewer = tiny()
    two = load_experts(fewer, tmp_path, ["words", "cells"])
    torch.testing.assert_close(two.route(picture, question)[1], scores[:, [2, 0]], rtol=2e-2, atol=2e-2)


@settings(deadline=None, max_examples=10)
@given(st.booleans())
def test_the_router_hears_the_question_and_sees_the_picture(with_picture):
    torch.manual_seed(3)
    experts = taught(tiny())
    picture = torch.randn(1, PICTURE) * with_picture
    one, other = (experts.route(picture, torch.randn(1, WORDS))[1] for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-3)
    question = torch.randn(1, WORDS)
    seen = experts.route(torch.randn(1, PICTURE), question)[1]
    assert not torch.allclose(experts.route(picture, question)[1], seen, atol=1e-3)


def test_gradients_reach_router_and_experts_and_nothing_else():
    model = tiny().requires_grad_(False)
    experts = taught(model).train()
    gates, scores = experts.route(torch.stack([torch.randn(PICTURE), torch.zeros(PICTURE)]), torch.randn(2, WORDS))
    with experts.speaking(gates):
        loss = model(IDS, labels=IDS).loss + 0.01 * balance_loss(scores, gates) + 0.001 * z_loss(scores)
    loss.backward()
    without = [p for p in experts.trainable() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad is None for n, p in model.named_parameters() if not n.endswith((".down", ".up")))


def test_an_expert_is_added_without_touching_the_others(tmp_path):
    taught(tiny()).save(tmp_path, "tiny")
    model = tiny().requires_grad_(False)
    experts = load_experts(model, tmp_path, new=["skin"])
    names = ("cells", "tissue", "words", "skin")
    assert experts.plan.names == names
    before = {name: experts.expert_state(name) for name in names}
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in before.items()}
    assert not any(value.any() for key, value in before["skin"].items() if "lora_B" in key)
    experts.teach_only(["skin"])
    optimizer = torch.optim.AdamW(experts.trainable(), lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(15):
        with experts.speaking(torch.tensor([[0.25] * 4] * 2)):
            loss = model(IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    for name in names:
        same = [torch.equal(value, before[name][key]) for key, value in experts.expert_state(name).items()]
        assert not any(same) if name == "skin" else all(same), name
    experts.save(tmp_path, "tiny")
    assert load_experts(tiny(), tmp_path).plan.names == names


def test_the_question_is_its_words_mean():
    embedding = torch.nn.Embedding(50, 4)
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    asked = torch.tensor([[True, False, True], [False, False, False]])
    pooled = mean_embedding(embedding, ids, asked)
    torch.testing.assert_close(pooled[0], (embedding.weight[3] + embedding.weight[5]).detach() / 2)
    assert not pooled[1].any()


def test_what_is_no_set_of_experts_is_told(tmp_path):
    experts = taught(tiny())
    experts.save(tmp_path / "good", "tiny")
    with pytest.raises(InputError, match="no whole set of experts"):
        load_experts(tiny(), tmp_path)
    for break_it in (
        lambda folder: (folder / "cells" / "adapter_model.safetensors").write_bytes(b"no"),
        lambda folder: shutil.rmtree(folder / "words"),
        lambda folder: (folder / ABOUT).write_text("{}"),
        lambda folder: (folder / "router.safetensors").unlink(),
    ):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        break_it(tmp_path / "bad")
        with pytest.raises(InputError, match="no whole set of experts"):
            load_experts(tiny(), tmp_path / "bad")
        shutil.rmtree(tmp_path / "bad")
    about = json.loads((tmp_path / "good" / ABOUT).read_text())
    (tmp_path / "good" / ABOUT).write_text(json.dumps(about | {"targets": r"model\.layers\.0\.self_attn\.[qv]_proj"}))
    with pytest.raises(InputError, match="does not fit this model"):
        load_experts(tiny(), tmp_path / "good")
    with pytest.raises(InputError, match="matches no linear layer"):
        Experts(tiny(), plan(targets="nowhere"), PICTURE, WORDS)


@given(st.integers(0, 1000), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_information_lies_between_none_and_all(seed, number):
    torch.manual_seed(seed)
    loss = float(information_loss(3 * torch.randn(8, number)))
    assert -math.log(number) - 1e-5 <= loss <= 1e-5


def test_information_is_all_where_each_question_has_its_expert_and_none_where_all_share():
    assert float(information_loss(50 * torch.eye(4))) == pytest.approx(-math.log(4), abs=1e-4)
    assert float(information_loss(torch.ones(6, 4))) == pytest.approx(0, abs=1e-6)
    assert float(information_loss(torch.tensor([[9.0, 0, 0, 0]] * 6))) == pytest.approx(0, abs=1e-6)
