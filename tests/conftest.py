"""A tower with random numbers, so that no test of training fetches the pretrained one; packages that bring plugins."""

import importlib
import sys
import textwrap
from pathlib import Path

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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lays a package with entry points on the path, as an installer does: install(name, code, tools=, specialists=).

    The module is the package's name with _; entry points are name -> what of the module they name.
    """
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def install(name: str, code: str = "", tools: dict | None = None, specialists: dict | None = None) -> Path:
        module = name.replace("-", "_")
        monkeypatch.delitem(sys.modules, module, raising=False)
        (folder / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = folder / f"{module}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        groups = {"slidekick.tools": tools or {}, "slidekick.specialists": specialists or {}}
        lines = [
            line
            for group, points in groups.items()
            for line in (f"[{group}]", *(f"{point} = {module}:{what}" for point, what in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()
        return folder

    return install
