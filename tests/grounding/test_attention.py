"""The two-way transformer says what SAM's own says, whoever shares the cells."""

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer

from slidekick.grounding.attention import two_way


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_as_many_layers_and_heads_say_as_sam_says(prompts, shared):
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=3, embedding_dim=32, num_heads=4, mlp_dim=64).eval()
    image = torch.randn(1 if shared else prompts, 32, 5, 7)
    places, tokens = torch.randn(1, 32, 5, 7), torch.randn(prompts, 6, 32)
    with torch.no_grad():
        wanted = transformer(image.expand(prompts, -1, -1, -1), places.expand(prompts, -1, -1, -1), tokens)
        cells, positions = (one.flatten(2).transpose(1, 2) for one in (image, places))
        found = two_way(transformer, cells, positions, tokens)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_every_weight_learns_as_in_sams():
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=16, num_heads=2, mlp_dim=16)
    image, places, tokens = torch.randn(2, 16, 3, 4), torch.randn(1, 16, 3, 4), torch.randn(2, 5, 16)
    sides = []
    for work in (
        lambda: transformer(image, places.expand(2, -1, -1, -1), tokens),
        lambda: two_way(transformer, *(one.flatten(2).transpose(1, 2) for one in (image, places)), tokens),
    ):
        transformer.zero_grad()
        states, cells = work()
        (states.square().sum() + cells.cos().sum()).backward()
        sides.append({name: weight.grad for name, weight in transformer.named_parameters()})
    for name, wanted in sides[0].items():
        found = sides[1][name]
        if found is None:  # a keys' bias moves all cells alike, which softmax does not see
            assert name.endswith("k_proj.bias")
            assert wanted.abs().max() < 1e-4
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
