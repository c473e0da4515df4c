import pytest
import torch

PHRASES = ["nucleus", "gland", "blood vessel"]
# SAM's parts for points, boxes, mask prompts and mask quality come with its modules and are not used here.
UNUSED = (
    "prompt_encoder.point_embeddings",
    "prompt_encoder.not_a_point_embed",
    "prompt_encoder.mask_downscaling",
    "mask_decoder.iou_prediction_head",
)


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_shapes_are_as_documented(small_model, pixels):
    embeddings = small_model.encode(pixels)
    assert embeddings.shape == (2, 32, 8, 8)
    masks, interiors, present = small_model.decode(embeddings[0], PHRASES)
    assert masks.shape == interiors.shape == (3, 32, 32)
    assert present.shape == (3,)


@torch.inference_mode()
def test_several_phrases_at_once_give_what_each_gives_alone(small_model, pixels):
    embedding = small_model.encode(pixels)[0]
    together = small_model.decode(embedding, PHRASES)
    for index, phrase in enumerate(PHRASES):
        for several, one in zip(together, small_model.decode(embedding, [phrase]), strict=True):
            torch.testing.assert_close(several[index], one[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_window_is_seen_the_same_whatever_is_beside_it(small_model, pixels):
    together = small_model.encode(pixels)
    torch.testing.assert_close(together[1], small_model.encode(pixels[1:])[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_words_and_pixels_both_decide_what_is_drawn(small_model, pixels):
    first, second = small_model.encode(pixels)
    masks, _, _ = small_model.decode(first, PHRASES)
    assert not torch.allclose(masks[0], masks[1], atol=1e-3)
    assert not torch.allclose(masks[0], small_model.decode(second, PHRASES)[0][0], atol=1e-3)


def test_gradients_reach_every_parameter_that_is_in_use(small_model, pixels):
    small_model.train()
    masks, interiors, present = small_model.decode(small_model.encode(pixels)[0], PHRASES)
    (masks.square().mean() + interiors.square().mean() + present.square().mean()).backward()
    dry = {name for name, p in small_model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name for name in dry if not name.startswith(UNUSED)} == set()


def test_presence_does_not_bend_the_drawing(small_model, pixels):
    _, _, present = small_model.decode(small_model.encode(pixels)[0], PHRASES)
    present.sum().backward()
    assert all(p.grad is None for p in small_model.mask_decoder.output_hypernetworks_mlps.parameters())
    assert small_model.presence.query.weight.grad.abs().sum() > 0
