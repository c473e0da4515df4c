from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import slidekick.rl.tower
from slidekick.data.items import Item
from slidekick.rl.sft import IMAGE_SIDE
from slidekick.rl.tower import augment, features, folded, heads_of, mix, new_tower, shrink, train_tower

PLAN = {"seed": 7, "steps": 2, "batch": 3, "learning_rate": 1e-3, "label_smoothing": 0.1, "ema": 0.9}


@pytest.fixture
def no_download(monkeypatch, random_tower):
    monkeypatch.setattr(slidekick.rl.tower, "imagenet_state", lambda: dict(random_tower))


def item(name: str, label=None, organ=None, stain=None) -> Item:
    return Item(name, "1", Path("1.png"), "train", label=label, organ=organ, stain=stain)


def test_heads_are_sets_organs_and_stains_with_more_than_one_answer():
    items = [
        item("cells", "round", "blood", "Giemsa"),
        item("cells", "long", "blood"),
        item("cells", "round", "blood"),
        item("alone", "only label", "brain"),
        item("bare"),
    ]
    assert heads_of(items) == {"cells": ["long", "round"], "organ": ["blood", "brain"]}


def test_training_the_tower_writes_half_precision_weights_that_moved_and_statistics_that_did_not(
    no_download, random_tower, items, tmp_path
):
    train_tower(items, PLAN, tmp_path / "tower.safetensors")
    state = load_file(tmp_path / "tower.safetensors")
    kept = {name: t for name, t in random_tower.items() if not name.startswith("classifier.")}
    assert state.keys() == kept.keys()
    assert {t.dtype for t in state.values()} <= {torch.float16, torch.int64}
    assert not torch.equal(state["conv_stem.weight"], kept["conv_stem.weight"].half())
    for name, tensor in kept.items():
        if "running" in name:
            torch.testing.assert_close(state[name].float(), tensor, rtol=1e-3, atol=1e-3)


def test_the_same_plan_trains_the_same_tower(no_download, items, tmp_path):
    for name in ("first", "second"):
        train_tower(items, PLAN, tmp_path / name)
    first, second = (load_file(tmp_path / name) for name in ("first", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_set_name_with_a_dot_or_a_modules_name_is_a_head_like_any_other(no_download, items, tmp_path):
    from dataclasses import replace

    renamed = [replace(one, set={"glas": "v1.0", "gbm40": "keys"}.get(one.set, one.set)) for one in items]
    train_tower(renamed, PLAN | {"steps": 1}, tmp_path / "tower.safetensors")
    assert (tmp_path / "tower.safetensors").exists()


def test_a_folded_tower_sees_and_learns_as_the_tower_itself(no_download):
    tower = new_tower().double().eval()
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.double)
    seen, gradients = [], []
    for see in (tower, folded(tower)):
        tower.zero_grad()
        seen.append(see(pixels))
        seen[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in tower.parameters()])
    torch.testing.assert_close(*seen)
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, plain)
    with torch.no_grad():
        tower.bn1.bias += 1
    assert not torch.allclose(folded(tower)(pixels), seen[1])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_mixture_says_how_much_of_each_picture_is_its_own(seed, chance):
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16)  # each picture is its number
    mixed, how = mix(pixels, chance, np.random.default_rng(seed))
    assert 0.5 <= how.share <= 1
    wanted = how.share * torch.arange(4.0) + (1 - how.share) * torch.tensor(how.partner, dtype=torch.float)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), wanted)
    if chance == 0:
        assert torch.equal(mixed, pixels)
    assert torch.equal(pixels[:, 0, 0, 0], torch.arange(4.0)), "what was given stays as it is"


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_views_of_any_picture_have_the_towers_size(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for view in (shrink(pixels), augment(pixels, np.random.default_rng(seed))):
        assert (view.shape, view.dtype) == ((IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)


def test_features_do_not_hang_on_the_batch(random_tower, no_download):
    tower = new_tower().eval()
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8))
    maps = features(tower, pictures, batch=2)
    assert (maps.shape, maps.dtype) == ((3, 36, 1280), np.float16)
    np.testing.assert_allclose(features(tower, pictures[2:])[0], maps[2], rtol=0.02, atol=0.02)
