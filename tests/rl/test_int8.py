"""Products in 8 bits: near those in full precision, token by token, and only while they are asked for."""

import pytest
import torch
from torch import nn

from slidekick.rl.int8 import Int8, Int8Linear


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 64)


def activations(tokens: int) -> torch.Tensor:
    """As language models have them: two columns far larger than the others."""
    x = torch.randn(tokens, 96)
    x[:, [3, 70]] *= 40
    return x


def calibrated(layer: nn.Linear) -> Int8Linear:
    x = activations(50).abs()
    return Int8Linear(layer, (x / x.amax(-1, keepdim=True)).amax(0))


def error(small: Int8Linear, layer: nn.Linear, x: torch.Tensor) -> float:
    whole = layer(x)
    return float((small(x) - whole).norm() / whole.norm())


def test_the_product_is_near_and_calibration_makes_it_nearer(layer):
    x = activations(200)
    with torch.no_grad():
        fitted, blind = (error(one, layer, x) for one in (calibrated(layer), Int8Linear(layer, torch.ones(96))))
    assert fitted < 0.01
    assert fitted < blind


def test_a_token_does_not_hang_on_its_neighbours(layer):
    small, x = calibrated(layer), activations(6)
    alone = small(x[2:3])
    x[0] *= 1000  # as the first token of a text
    assert torch.equal(small(x)[2:3], alone)
    assert torch.equal(small(x[None])[0], small(x))


def test_silence_stays_silent_without_a_bias(layer):
    layer.bias = None
    assert not calibrated(layer)(torch.zeros(2, 96)).any()


def test_layers_are_in_8_bits_only_while_it_speaks(make_model):
    model = make_model()
    ids = torch.arange(5, 25)[None]
    before = dict(model.named_modules())
    small = Int8(model, lambda: model(input_ids=ids))
    with torch.no_grad():
        whole = model(input_ids=ids).logits.log_softmax(-1)
        with small.speaking():
            said = model(input_ids=ids).logits.log_softmax(-1)
            assert not any(isinstance(one, nn.Linear) for one in model.base_model.language_model.modules())
            assert isinstance(model.get_output_embeddings(), Int8Linear)
        again = model(input_ids=ids).logits.log_softmax(-1)
    assert 0 < (said - whole).abs().max() < 0.05
    assert torch.equal(again, whole)
    assert dict(model.named_modules()) == before


def test_layers_come_back_after_an_error(make_model):
    model = make_model()
    small = Int8(model, lambda: model(input_ids=torch.arange(5, 25)[None]))
    with pytest.raises(KeyboardInterrupt), small.speaking():
        raise KeyboardInterrupt
    assert isinstance(model.get_output_embeddings(), nn.Linear)
