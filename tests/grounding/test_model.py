"""The network: shapes, prompts that are decoded together or alone, positions, and official SAM in the same class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.grounding.model import Features, SegmentorModel, pixel_tensor
from slidekick.grounding.sizes import CORNER_FIRST, CORNER_LAST, NEGATIVE, NO_POINT, PHRASE_WIDTH, POSITIVE
from slidekick.grounding.sizes import SegmentorConfig as Config

WORDS = ["nucleus", "gland", "blood vessel"]


@pytest.fixture
def phrases(encode):
    return torch.from_numpy(encode(WORDS))


def pixels(height: int = 64, width: int = 64, number: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def points(*clicks: tuple[float, float, int], prompts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.tensor([[(x, y) for x, y, _ in clicks]] * prompts).float()
    return places, torch.tensor([[label for *_, label in clicks]] * prompts)


def picture(features: Features, index: int) -> Features:
    return Features(*(level[index : index + 1] for level in features))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (256, 256), (96, 160), (32, 288)])
def test_shapes_are_as_documented_whatever_the_pictures_size(small_model, phrases, size):
    height, width = size
    features = small_model.encode(pixels(height, width, 2))
    assert features.embedding.shape == (2, 32, height // 8, width // 8)
    assert features.fine.shape == (2, 8, height // 4, width // 4)
    assert features.finest.shape == (2, 4, height // 2, width // 2)
    one = picture(features, 0)
    masks, present = small_model.decode(one, phrases)
    assert masks.shape == (3, 2, height // 2, width // 2)
    assert present.shape == (3,)
    clicks = points((5, 5, POSITIVE), (9, 9, NEGATIVE), prompts=3)
    assert small_model.decode(one, phrases, *clicks, masks[:, 0])[0].shape == masks.shape


@torch.inference_mode()
def test_a_picture_encoded_once_gives_each_prompt_what_it_gets_alone(small_model, phrases):
    one = small_model.encode(pixels())
    clicks = points((20, 30, POSITIVE), prompts=3)
    together = small_model.decode(one, phrases, *clicks)
    repeated = small_model.decode(Features(*(level.expand(3, -1, -1, -1) for level in one)), phrases, *clicks)
    for index in range(3):
        alone = small_model.decode(one, phrases[index : index + 1], *(part[:1] for part in clicks))
        for several, spread, single in zip(together, repeated, alone, strict=True):
            torch.testing.assert_close(several[index], single[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(spread[index], single[0], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_picture_is_seen_the_same_whatever_is_beside_it(small_model):
    two = pixels(number=2)
    together = small_model.encode(two)
    for several, alone in zip(picture(together, 1), small_model.encode(two[1:]), strict=True):
        torch.testing.assert_close(several, alone, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_words_and_pixels_both_decide_what_is_drawn_and_what_is_there(small_model, phrases):
    features = small_model.encode(pixels(number=2))
    masks, present = small_model.decode(picture(features, 0), phrases)
    elsewhere, absent = small_model.decode(picture(features, 1), phrases)
    for one, other in ((masks[0], masks[1]), (masks[0], elsewhere[0])):
        assert not torch.allclose(one, other, atol=1e-3)
    for one, other in ((present[0], present[1]), (present[0], absent[0])):
        assert abs(one - other) > 1e-4


@torch.inference_mode()
def test_a_zero_phrase_is_no_words_and_is_drawn_alike_whatever_is_beside_it(small_model, phrases):
    tokens = small_model.text(torch.cat([torch.zeros(1, PHRASE_WIDTH), phrases]))
    torch.testing.assert_close(tokens[0], small_model.text.no_text)
    assert tokens.shape == (4, 2, 32)
    assert not torch.allclose(tokens[1], tokens[0], atol=1e-2)
    assert not torch.allclose(tokens[1], tokens[2], atol=1e-2)
    one = small_model.encode(pixels())
    beside, _ = small_model.decode(one, torch.cat([phrases[:1], torch.zeros(1, PHRASE_WIDTH)]))
    alone, _ = small_model.decode(one, torch.zeros(1, PHRASE_WIDTH))
    torch.testing.assert_close(beside[1], alone[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(beside[0], beside[1], atol=1e-3)


@torch.inference_mode()
def test_phrases_of_any_length_are_the_same_words(small_model, phrases):
    """The tokens are normalised at both ends, so a vector counts by its direction."""
    torch.testing.assert_close(small_model.text(phrases), small_model.text(20 * phrases), rtol=1e-2, atol=1e-2)


@torch.inference_mode()
def test_points_their_place_and_their_kind_change_the_mask(small_model, phrases):
    one, word = small_model.encode(pixels()), phrases[:1]
    drawn = [
        small_model.decode(one, word, *(points(*clicks) if clicks else ()))[0]
        for clicks in (
            (),
            [(10, 10, POSITIVE)],
            [(50, 10, POSITIVE)],
            [(10, 50, POSITIVE)],
            [(10, 10, NEGATIVE)],
            [(10, 10, CORNER_FIRST), (50, 50, CORNER_LAST)],
            [(10, 10, CORNER_LAST), (50, 50, CORNER_FIRST)],
        )
    ]
    for index, mask in enumerate(drawn):
        assert all(not torch.allclose(mask, other, atol=1e-3) for other in drawn[:index]), index


@torch.inference_mode()
def test_marks_are_drawn_where_they_are(small_model):
    places = torch.tensor([[(17.0, 9.0), (41.0, 25.0), (50.0, 50.0)], [(20.0, 30.0), (44.0, 30.0), (0.0, 0.0)]])
    labels = torch.tensor([[CORNER_FIRST, CORNER_LAST, POSITIVE], [POSITIVE, NEGATIVE, NO_POINT]])
    drawn = small_model.marks.picture(places, labels, (8, 8))  # 32 × 32 cells of 2 px
    assert drawn.shape == (2, 7, 32, 32)
    assert (drawn.min(), drawn.max()) >= (0, 0)
    assert drawn.max() <= 1
    inside, outside, centred, *clicks = drawn[0]
    box = torch.zeros(32, 32)
    box[5:12, 9:20] = 1
    torch.testing.assert_close((inside > 0.5).float(), box)
    torch.testing.assert_close(inside + outside, torch.ones(32, 32))
    assert divmod(int(centred.argmax()), 32) in {(8, 14), (8, 15)}
    assert [divmod(int(channel.argmax()), 32) for channel in clicks[:2]] == [(24, 24)] * 2
    assert not torch.stack(clicks[2:]).any()
    inside, outside, centred, near, around, off, _ = drawn[1]
    assert not torch.stack([inside, outside, centred]).any(), "no box, nothing outside it"
    assert (near > 0).sum() < (around > 0).sum()
    assert near[14, 9] > 0.8
    assert off[14, 21] > 0.8
    assert not (near * off).any()


@torch.inference_mode()
def test_no_mark_adds_nothing(small_model):
    blank = small_model.marks(torch.ones(2, 3, 2), torch.full((2, 3), NO_POINT), (8, 6))
    assert [tuple(level.shape) for level in blank] == [(2, 32, 8, 6), (2, 4, 32, 24)]
    assert not any(level.any() for level in blank)


@torch.inference_mode()
def test_a_former_mask_changes_the_mask(small_model, phrases):
    one, clicks = small_model.encode(pixels()), points((10, 10, POSITIVE))
    former = torch.zeros(1, 32, 32)
    former[:, :16] = 8
    drawn = [small_model.decode(one, phrases[:1], *clicks, f)[0] for f in (None, former, -former)]
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)
    assert not torch.allclose(drawn[1], drawn[2], atol=1e-3)


@torch.inference_mode()
def test_filling_does_not_hang_on_where_it_is_said_to_be(small_model, phrases):
    """Rows of fewer points are filled up with NO_POINT, at any place, even a whole row."""
    one = small_model.encode(pixels())
    places = torch.tensor([[(10.0, 10.0), (0.0, 0.0)], [(0.0, 0.0), (0.0, 0.0)]])
    labels = torch.tensor([[POSITIVE, NO_POINT], [NO_POINT, NO_POINT]])
    masks, present = small_model.decode(one, phrases[:2], places, labels)
    assert torch.isfinite(masks).all()
    assert torch.isfinite(present).all()
    moved = places.clone()
    moved[0, 1] = moved[1] = torch.tensor([40.0, 7.0])
    torch.testing.assert_close(small_model.decode(one, phrases[:2], moved, labels)[0], masks)
    swapped, _ = small_model.decode(one, phrases[:1], places[:1].flip(1), labels[:1].flip(1))
    torch.testing.assert_close(swapped[0], masks[0], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9))
def test_a_places_position_does_not_hang_on_the_grid_it_is_in(rows, columns):
    torch.manual_seed(2)
    model = SegmentorModel(Config(window=64, width=16, heads=2, depth=1, mlp=16))
    largest = model._positions((9, 9))
    assert largest.shape == (1, 16, 9, 9)
    torch.testing.assert_close(model._positions((rows, columns)), largest[..., :rows, :columns])
    stride = model.config.stride
    centre = torch.tensor([[[(columns - 0.5) * stride - 0.5, (rows - 0.5) * stride - 0.5]]])
    point = model._point_tokens(centre, torch.tensor([[POSITIVE]]))[0, 0]
    kind = model.prompt_encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(point - kind, largest[0, :, rows - 1, columns - 1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_at_the_models_own_window_positions_are_sams():
    torch.manual_seed(2)
    model = SegmentorModel(Config(window=64, width=16, heads=2, depth=1, mlp=16))
    torch.testing.assert_close(model._positions((8, 8)), model.prompt_encoder.get_dense_pe())


def test_gradients_reach_every_parameter_that_is_in_use(small_model, phrases):
    small_model.train()
    clicks = points(*((9.0, 9.0, kind) for kind in range(NO_POINT, CORNER_LAST + 1)), prompts=3)
    rows = torch.cat([phrases[:2], torch.zeros(1, PHRASE_WIDTH)])
    features = small_model.encode(pixels())
    masks, present = small_model.decode(features, rows, *clicks)
    again, _ = small_model.decode(features, rows, *clicks, masks[:, 0])
    (masks.square().mean() + again.square().mean() + present.square().mean()).backward()
    dry = {name for name, p in small_model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    unused = ("mask_decoder.iou_prediction_head.", "token_to_image.k_proj.bias")  # the bias moves all cells alike
    assert {name for name in dry if not any(part in name for part in unused)} == set()


def test_presence_does_not_bend_the_drawing(small_model, phrases):
    _, present = small_model.decode(small_model.encode(pixels()), phrases)
    present.sum().backward()
    assert all(p.grad is None for p in small_model.mask_decoder.output_hypernetworks_mlps.parameters())
    assert small_model.presence.query.weight.grad.abs().sum() > 0


@torch.inference_mode()
def test_new_fine_features_are_silent_at_first(phrases):
    """The skips start at zero, so that a model without them can be gone on with."""
    torch.manual_seed(2)
    model = SegmentorModel(Config(window=64, width=32, heads=2, depth=1, mlp=16)).eval()
    features = model.encode(pixels())
    assert not features.fine.any()
    torch.testing.assert_close(model.decode(Features(features.embedding), phrases), model.decode(features, phrases))


def test_pixels_are_scaled_as_each_encoder_expects():
    rgb = np.array([[[0, 0, 0], [255, 255, 255], [124, 116, 104]]], np.uint8)[None]
    ours, sams = (pixel_tensor(rgb, encoder) for encoder in ("pyramid", "vit_b"))
    assert ours.shape == sams.shape == (1, 3, 1, 3)
    torch.testing.assert_close(ours[0, 0, 0, :2], torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(sams[0, 0, 0, 0], torch.tensor(-123.675 / 58.395))
    assert sams[0, :, 0, 2].abs().max() < 0.02


def test_sizes_say_what_belongs_to_which_encoder():
    ours, sams = Config(), Config.sam("vit_l")
    assert (ours.stride, ours.knows_words) == (8, True)
    assert (sams.stride, sams.knows_words) == (16, False)
    assert (sams.encoder, sams.window, sams.width, sams.masks) == ("vit_l", 1024, 256, 4)
    assert Config(**sams.to_dict()) == sams
