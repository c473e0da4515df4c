"""What a training step asks and how it is marked: losses of known drawings, corrections, and that it teaches."""

import numpy as np
import pytest
import torch

from slidekick.data.items import load_items
from slidekick.grounding.lesson import ABSENT, ROUNDS, WEIGHTS, Lesson, collate, drawing_loss, interior_loss
from slidekick.grounding.sizes import MASK_STRIDE, NEGATIVE, PHRASE_WIDTH, POSITIVE
from slidekick.grounding.windows import Prompt, Sampler

SIDE = 64
CELLS = SIDE // MASK_STRIDE
CONCEPTS = {
    "nucleus": {"jitter": [0.8, 1.2], "synonyms": ["nuclei"]},
    "tumour": {"jitter": [0.8, 1.2], "synonyms": []},
    "gland": {"jitter": [0.8, 1.2], "synonyms": []},
}
PLAN = {
    "seed": 5,
    "sides": {SIDE: 1},
    "positive_share": 0.8,
    "further": {True: 0.9, False: 0.6},
    "objects": 0.4,
}
SURE = 20.0


@pytest.fixture(scope="module")
def sampler(painted):
    return Sampler(CONCEPTS, load_items(painted, split="train"), PLAN)


@pytest.fixture(scope="module")
def embeddings(encode):
    words = ["nucleus", "nuclei", "tumour", "gland"]
    return dict(zip(words, encode(words), strict=True)) | {None: np.zeros(PHRASE_WIDTH, np.float32)}


def prompt(phrase="nucleus", clicks=(), there=True, judged=1.0, interior=True) -> Prompt:
    mask = np.zeros((CELLS, CELLS), np.float32)
    mask[8:24, 8:24] = there
    weight = np.ones_like(mask)
    weight[:, 16:] = judged
    return Prompt(phrase, list(clicks), mask, weight, mask if interior else None, there)


def batch(*prompts: Prompt, embeddings):
    return collate([(np.full((SIDE, SIDE, 3), 128, np.uint8), list(prompts))], embeddings)


def test_a_batch_holds_windows_once_and_prompts_with_the_window_they_ask_of(sampler, embeddings):
    drawn = [sampler.draw(0, index, SIDE) for index in range(4)]
    made = collate(drawn, embeddings)
    prompts = [one for _, own in drawn for one in own]
    number = len(prompts)
    assert made.pixels.shape == (4, 3, SIDE, SIDE)
    assert (made.pixels >= -1).all()
    assert (made.pixels <= 1).all()
    assert made.index.tolist() == [window for window, (_, own) in enumerate(drawn) for _ in own]
    assert made.phrases.shape == (number, PHRASE_WIDTH)
    assert made.mask.shape == made.judged.shape == made.interior.shape == (number, CELLS, CELLS)
    assert [made.told.dtype, made.asked.dtype] == [torch.bool, torch.bool]
    assert made.told.tolist() == [one.interior is not None for one in prompts]
    assert made.present.tolist() == [float(one.present) for one in prompts]
    for index, one in enumerate(prompts):
        np.testing.assert_array_equal(made.phrases[index], embeddings[one.phrase])
        np.testing.assert_array_equal(made.mask[index], one.mask)
    assert made.to(torch.device("cpu")).clicks == made.clicks == [one.clicks for one in prompts]


def test_presence_is_asked_of_words_alone_where_somebody_judged(embeddings):
    nobody = np.zeros((CELLS, CELLS), np.float32)
    unseen = Prompt("gland", [], nobody, nobody, None, False)
    partly = prompt("gland", there=False, judged=0.0)
    made = batch(
        prompt(), prompt(there=False), prompt(clicks=[(9, 9, POSITIVE)]), prompt(None, [(9, 9, POSITIVE)]),
        prompt(judged=0.0), unseen, partly, embeddings=embeddings,
    )  # fmt: skip
    assert made.asked.tolist() == [True, True, False, False, True, False, False], "it may be where nobody looked"


def drawings(*prompts: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(np.stack([getattr(one, name) for one in prompts])) for name in ("mask", "judged"))


def test_a_perfect_drawing_costs_nothing_and_a_wrong_one_much():
    target, judged = drawings(prompt())
    right = (target - 0.5) * 2 * SURE
    assert sum(drawing_loss(right, target, judged)) < 1e-3
    bce, dice = drawing_loss(-right, target, judged)
    assert bce == pytest.approx(SURE, rel=0.01)
    assert dice > 0.9
    worse = [drawing_loss(right * share, target, judged) for share in (1, 0.5, 0.05, -0.05)]
    for part in range(2):
        values = [float(loss[part]) for loss in worse]
        assert values == sorted(values)


def test_where_nothing_is_to_be_drawn_only_the_cells_count_and_they_less():
    target, judged = drawings(prompt(there=False))
    bce, dice = drawing_loss(torch.full_like(target, SURE), target, judged)
    assert dice == 0
    assert bce == pytest.approx(ABSENT * SURE, rel=0.01)


def test_interiors_count_only_where_objects_are_told_apart():
    target = drawings(prompt(), prompt())[0]
    judged = torch.ones_like(target)
    told = torch.tensor([True, False])
    right = (target - 0.5) * 2 * SURE
    assert interior_loss(right, target, told, judged) < 1e-3
    spoilt = torch.stack([right[0], -right[1]])
    assert interior_loss(spoilt, target, told, judged) < 1e-3
    assert interior_loss(-spoilt, target, told, judged) > 10
    assert interior_loss(-right, target, torch.tensor([False, False]), judged) == 0


class Drawn(torch.nn.Module):
    """Stands in for the network: draws what it is told, whatever is asked, and notes what that was."""

    def __init__(self, masks: torch.Tensor, present: torch.Tensor) -> None:
        super().__init__()
        self.masks, self.present = torch.nn.Parameter(masks), torch.nn.Parameter(present)
        self.asked = []

    def encode(self, pixels):
        from slidekick.grounding.model import Features

        return Features(torch.zeros(len(pixels), 1, 8, 8))

    def decode(self, features, phrases, points=None, labels=None, former=None):
        self.asked.append((phrases, points, labels, former))
        if former is None:
            return self.masks * 1, self.present * 1
        return former[:, None].expand(-1, 2, -1, -1) * 1, self.present[: len(former)]


def marked(prompts: list[Prompt], embeddings, corrected: float = 0.0, right: bool = True):
    """A network that draws the prompts right, or all of it wrong; its lesson's loss and parts."""
    made = batch(*prompts, embeddings=embeddings)
    sign = 1 if right else -1
    masks = torch.stack([made.mask, made.interior], 1).sub(0.5).mul(2 * SURE * sign)
    model = Drawn(masks, (made.present - 0.5) * 2 * SURE * sign)
    loss, parts = Lesson(model, corrected)(made, np.random.default_rng(0))
    return model, loss, parts


def test_a_lesson_is_the_weighted_sum_of_its_parts(embeddings):
    prompts = [prompt(), prompt("gland", there=False), prompt(None, [(20, 20, POSITIVE)])]
    _, perfect, parts = marked(prompts, embeddings)
    assert set(parts) == set(WEIGHTS) - {"corrected"}
    assert perfect < 1e-3
    _, wrong, parts = marked(prompts, embeddings, right=False)
    assert float(wrong.detach()) == pytest.approx(sum(WEIGHTS[name] * part for name, part in parts.items()), rel=1e-5)
    assert all(part > 0.5 for part in parts.values())


def test_a_lesson_about_presence_is_silent_where_no_words_alone_were_said(embeddings):
    model, loss, parts = marked([prompt(None, [(20, 20, POSITIVE)])], embeddings, right=False)
    assert parts["presence"] == 0
    loss.backward()
    assert not model.present.grad.any()


@pytest.mark.parametrize("corrected", [0.0, 1.0])
def test_cells_that_nobody_judged_teach_nothing(embeddings, corrected):
    prompts = [prompt(judged=0.0), prompt("tumour", judged=0.0), prompt("gland", there=False, judged=0.0)]
    model, loss, _ = marked(prompts, embeddings, corrected, right=False)
    loss.backward()
    gradient = model.masks.grad.abs().sum((0, 1))
    assert (gradient[:, :16] > 0).all()
    assert (gradient[:, 16:] == 0).all()


def test_what_was_wrong_is_asked_again_with_a_click_and_the_first_mask(embeddings):
    own = [(20.0, 20.0, POSITIVE)]
    model, _, parts = marked([prompt(), prompt(clicks=own)], embeddings, corrected=1.0, right=False)
    (_, _, first_labels, nothing), (phrases, points, labels, former), *further = model.asked
    assert nothing is None
    assert first_labels.tolist() == [[-1], [POSITIVE]]
    assert "corrected" in parts
    torch.testing.assert_close(former, model.masks[:, 0])
    assert not former.requires_grad
    torch.testing.assert_close(phrases, model.asked[0][0])
    assert labels.shape == (2, 2)
    assert labels[0, 1] == -1
    assert labels[1, 0] == POSITIVE
    assert points[1, 0].tolist() == [20.0, 20.0]
    target = batch(prompt(), embeddings=embeddings).mask[0]
    for (x, y), label in ((points[0, 0], labels[0, 0]), (points[1, 1], labels[1, 1])):
        inside = target[int(y / MASK_STRIDE), int(x / MASK_STRIDE)] >= 0.5
        assert label == (POSITIVE if inside else NEGATIVE)
    for (_, _, before, _), (_, _, after, _) in zip(model.asked[1:], further, strict=False):
        assert ((after >= 0).sum(1).max() - (before >= 0).sum(1).max()) <= 1, "one click more a round at most"
    assert len(model.asked) <= 1 + ROUNDS


def test_what_is_right_is_not_asked_again(embeddings):
    model, _, parts = marked([prompt(), prompt("gland", there=False)], embeddings, corrected=1.0)
    assert len(model.asked) == 1
    assert "corrected" not in parts


def test_corrections_lie_where_somebody_judged(embeddings):
    """All of it is wrong, but only the left half was judged."""
    model, *_ = marked([prompt(judged=0.0)] * 12, embeddings, corrected=1.0, right=False)
    _, points, _, _ = model.asked[1]
    assert (points[..., 0] < SIDE / 2).all()


def test_about_the_share_of_prompts_that_is_stated_is_asked_again(embeddings):
    model, *_ = marked([prompt()] * 200, embeddings, corrected=0.25, right=False)
    assert 30 < len(model.asked[1][0]) < 70


def test_where_all_prompts_were_corrected_only_the_stated_share_goes_on(embeddings):
    model, *_ = marked([prompt()] * 200, embeddings, corrected=1.0, right=False)
    first, second = (len(phrases) for phrases, *_ in model.asked[1:3])
    assert first == 200
    assert 95 < second < 145


def test_a_few_windows_can_be_learnt_by_heart(small_model, sampler, embeddings):
    """The loss falls to a fraction, and what is drawn, and what is said to be there, becomes right."""
    made = collate([sampler.draw(0, index, SIDE) for index in range(4)], embeddings)
    lesson = Lesson(small_model, corrected=0.25)
    optimizer = torch.optim.Adam(small_model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss, parts = lesson(made, np.random.default_rng(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert all(np.isfinite(part) for part in parts.values())
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
