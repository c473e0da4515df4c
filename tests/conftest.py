"""A tower with random numbers, so that no test of training fetches the pretrained one."""

import pytest


@pytest.fixture(scope="session")
def random_tower() -> dict:
    """State dict of the image tower in timm's names, with its 1000 classes, as `imagenet_state` gives it."""
    import timm
    import torch

    from slidekick.grounding.tower import ARCHITECTURE

    torch.manual_seed(5)
    return timm.create_model(ARCHITECTURE, pretrained=False).state_dict()


@pytest.fixture
def no_download(random_tower, monkeypatch) -> None:
    """Training starts from the random tower."""
    import slidekick.grounding.tower
    import slidekick.grounding.train

    def state() -> dict:
        return {name: tensor.clone() for name, tensor in random_tower.items()}

    for module in (slidekick.grounding.tower, slidekick.grounding.train):
        monkeypatch.setattr(module, "imagenet_state", state)
