"""Sampling of many answers behind one prompt: the same numbers as plain forward passes, and less work."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from slidekick.copilot.experts import ExpertPlan, Experts
from slidekick.rl import rollouts
from slidekick.rl.rollouts import (
    AT_ONCE,
    Beginning,
    Told,
    batches,
    below,
    draw,
    first_taught,
    log_probs,
    pack,
    sample,
    width,
)

END = 2
BUDGET = 7


class Evens(LogitsProcessor):
    """Admits tokens from 10 to 30 alone, the end token also; after an odd one only even ones."""

    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, float("-inf"))
        step = 2 if input_ids.shape[1] and int(input_ids[0, -1]) % 2 else 1
        places = [*range(10, 30, step), END]
        allowed[:, places] = scores[:, places]
        return allowed


@pytest.fixture
def spoken(make_model):
    """(model, experts): a small mini whose experts, in its upper layer alone, say something."""
    model = make_model()
    width = model.get_input_embeddings().embedding_dim
    plan = ExpertPlan(("a", "b"), 2, 8, r".*language_model.*\.1\..*(q_proj|v_proj|down_proj)")
    experts = Experts(model, plan, width, width)
    torch.manual_seed(1)
    with torch.no_grad():
        for one in experts.trainable():
            one.normal_(std=0.3)
        model.get_output_embeddings().weight.mul_(8.0)  # tied, so that distributions are not flat
    return model, experts


@pytest.fixture
def beginnings(spoken, processor):
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    torch.manual_seed(2)
    pictures = [torch.randn(36, 32), None, torch.randn(36, 32)]
    heads = [[5, *[image] * 36, 7, 8], [9, 11, 12, 13, 14], [*[image] * 36, 20]]
    gates = torch.tensor([[0.7, 0.3], [1.0, 0.0], [0.2, 0.8]])
    return [
        Beginning(tuple(h), 4, Evens, p, gates[i : i + 1]) for i, (h, p) in enumerate(zip(heads, pictures, strict=True))
    ]


def plain(model, experts, ids, told: Told, picture, gates):
    """Log-probabilities of an answer's own tokens by one forward pass without a cache."""
    shown = None if picture is None else {"image": BaseModelOutputWithPooling(pooler_output=picture[None])}
    experts.speak(gates)
    logits = model(input_ids=torch.tensor([[*ids, *told.ids]]), mm_encoder_outputs=shown, use_cache=False).logits[0]
    made, bits = [], iter(told.admitted)
    for place, own in enumerate(told.own):
        if own:
            admitted = torch.from_numpy(np.unpackbits(next(bits), count=logits.shape[1]).astype(bool))
            logs = logits[len(ids) + place - 1].masked_fill(~admitted, float("-inf")).log_softmax(-1)
            made.append(logs[told.ids[place]])
    return torch.stack(made)


def asked(spoken, beginnings, **more):
    return sample(*spoken, beginnings, BUDGET, [END], torch.Generator().manual_seed(4), **more)


def told_of(turn) -> Told:
    return Told(turn.ids, [1] * len(turn.ids), turn.admitted)


def test_log_probabilities_of_sampling_are_those_of_a_plain_forward(spoken, beginnings):
    drawn = asked(spoken, beginnings)
    assert {turn.complete for turns in drawn for turn in turns} == {True, False}
    for one, turns in zip(beginnings, drawn, strict=True):
        for turn in turns:
            with torch.no_grad():
                logs = plain(*spoken, one.ids, told_of(turn), one.picture, one.gates)
            torch.testing.assert_close(torch.tensor(turn.logs), logs, rtol=1e-4, atol=1e-4)
            assert turn.complete == (turn.ids[-1] == END)
            assert len(turn.ids) <= BUDGET
            assert all(10 <= token < 30 for token in turn.ids[:-1])


def test_a_turn_that_is_gone_on_from_keeps_its_past(spoken, beginnings):
    first = asked(spoken, beginnings, keep=lambda turn: True)
    index, turn = next((i, turn) for i, turns in enumerate(first) for turn in turns if turn.past is not None)
    begun = beginnings[index]
    heard = (25, 40, 41)
    goes_on = Beginning((turn.ids[-1], *heard), 3, Evens, None, begun.gates, turn.past)
    shorter = Beginning((40,), 2, Evens, None, begun.gates, turn.past)
    for following, number in zip(asked(spoken, [goes_on, shorter]), (3, 2), strict=True):
        assert len(following) == number
    for one in asked(spoken, [goes_on])[0]:
        ids = [*turn.ids, *heard, *one.ids]
        own = [1] * len(turn.ids) + [0] * len(heard) + [1] * len(one.ids)
        told = Told(ids, own, [*turn.admitted, *one.admitted])
        with torch.no_grad():
            logs = plain(*spoken, begun.ids, told, begun.picture, begun.gates)
        torch.testing.assert_close(torch.tensor([*turn.logs, *one.logs]), logs, rtol=1e-4, atol=1e-4)


def weighed(spoken, beginnings, answers):
    model, experts = spoken
    packed = pack([one.ids for one in beginnings], answers)
    depth = first_taught(model)
    assert depth == 1
    pictures = [one.picture for one in beginnings if one.picture is not None]
    states = below(model, packed, pictures, depth)
    experts.speak(torch.cat([one.gates for one in beginnings]))
    return log_probs(model, packed, states, depth)


def test_training_weighs_what_sampling_drew_and_the_tools_text_is_nobodys(spoken, beginnings):
    model, experts = spoken
    drawn = asked(spoken, beginnings)
    answers = [[told_of(turn) for turn in turns] for turns in drawn]
    turn = drawn[0][0]
    heard = [40, 41, 42]  # a tool's words in the middle of an answer
    ids = [*turn.ids[:2], *heard, *turn.ids[2:]]
    answers[0][0] = Told(ids, [1, 1, 0, 0, 0, *[1] * (len(turn.ids) - 2)], turn.admitted)
    logs, entropies = weighed(spoken, beginnings, answers)
    flat = [told for some in answers for told in some]
    own = torch.zeros_like(logs, dtype=torch.bool)
    for row, told in enumerate(flat):
        own[row, : len(told.ids)] = torch.tensor(told.own, dtype=torch.bool)
    assert not logs[~own].any()
    assert not entropies[~own].any()
    assert (entropies[own] >= 0).all()
    logs.sum().backward()
    mine = [one.grad.clone() for one in experts.trainable() if one.grad is not None]
    model.zero_grad()
    total, theirs = 0.0, []
    for one, some in zip(beginnings, answers, strict=True):
        for told in some:
            row = plain(model, experts, one.ids, told, one.picture, one.gates)
            theirs.append(row.detach())
            total = total + row.sum()
    torch.testing.assert_close(logs[own].detach(), torch.cat(theirs), rtol=1e-4, atol=1e-4)
    total.backward()
    plainly = [one.grad for one in experts.trainable() if one.grad is not None]
    assert len(mine) == len(plainly) > 0
    for one, other in zip(mine, plainly, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_ended_answers_and_prompts_leave_the_step(spoken, beginnings, monkeypatch):
    shapes, run = [], rollouts.run

    def noted(model, ids, *args, **kwargs):
        shapes.append(tuple(ids.shape))
        return run(model, ids, *args, **kwargs)

    monkeypatch.setattr(rollouts, "run", noted)
    drawn = asked(spoken, beginnings)
    (_, *steps) = shapes
    assert all(now[0] <= before[0] and now[1] <= before[1] for before, now in pairwise(steps))
    left = [max(sum(len(turn.ids) > step for turn in turns) for turns in drawn) for step in range(1, BUDGET)]
    assert [width for _, width in steps] == [number for number in left if number]


def test_the_same_seed_draws_the_same(spoken, beginnings):
    one, other = asked(spoken, beginnings), asked(spoken, beginnings)
    assert [[t.ids for t in turns] for turns in one] == [[t.ids for t in turns] for turns in other]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([0.0, 1.0, float("-inf"), 2.0, -1.0])
    picks, logs = draw(logits.expand(20_000, -1), torch.Generator().manual_seed(0))
    wanted = logits.softmax(-1)
    found = torch.bincount(torch.tensor(picks), minlength=5) / len(picks)
    assert found[2] == 0
    assert (found - wanted).abs().max() < 4 * (0.25 / len(picks)) ** 0.5
    torch.testing.assert_close(torch.tensor(logs), logits.log_softmax(-1)[picks], rtol=1e-5, atol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(1, 90)), max_size=20))
def test_batches_hold_each_branch_once_and_not_too_many(made):
    some = [Beginning(tuple(range(length)), number, Evens) for number, length in made]
    groups = batches(some)
    held = [(index, first + n) for group in groups for index, first, number in group for n in range(number)]
    assert sorted(held) == [(index, n) for index, one in enumerate(some) for n in range(one.number)]
    for group in groups:
        wide = max(number for *_, number in group)
        assert len(group) == 1 or len(group) * wide <= AT_ONCE


def test_equal_numbers_stay_in_one_row_and_odd_ones_are_cut():
    assert width([8] * 6) == 8
    assert width([1] * 6) == 1
    assert width([8, 1, 1, 1, 1, 1, 1]) < 8
