"""What trainings here do alike: ImageNet's statistics kept, a rate that falls, weights averaged, checkpoints.

Nothing is trained here; the segmentor's training is in `train.py`, the U-Nets' in `unet_training.py`.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from torch import nn

from slidekick.data.files import write_atomic

LAST_RATE = 0.02  # of the learning rate, at the end of the cosine
WARM = 10  # steps in which the average follows closely, so that it soon forgets what training began with

Average = dict[str, torch.Tensor]  # name -> tensor, as of a state dict


def keep_statistics(module: nn.Module) -> None:
    """Hold ImageNet's batch statistics still: batches this small would wobble them."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def falling(progress: float) -> float:
    """Half a cosine from 1 down to `LAST_RATE`. progress: 0–1."""
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def begin_average(model: nn.Module) -> Average:
    """The weights as they are now, as copies."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def moved(average: Average, device: torch.device) -> Average:
    """The same on another device."""
    return {name: tensor.to(device) for name, tensor in average.items()}


def update_average(average: Average, model: nn.Module, decay: float, step: int) -> None:
    """Draw the average, in place, towards the weights after `step` (from 0) by 1 − `decay`, by more at first."""
    decay = min(decay, (1 + step) / (WARM + step))
    for name, tensor in model.state_dict().items():
        if tensor.dtype.is_floating_point:
            average[name].lerp_(tensor.detach(), 1 - decay)


def write_checkpoint(file: Path, state: dict) -> None:
    """All of `state`, or nothing. Raises OutputError where it cannot be written."""
    stream = io.BytesIO()
    torch.save(state, stream)
    write_atomic(file, stream.getvalue())


def read_checkpoint(file: Path) -> dict:
    """What `write_checkpoint` wrote, on the CPU whatever device it was on."""
    return torch.load(file, map_location="cpu", weights_only=True)
