"""A U-Net for the concepts of one data set, what a lab would train on it; `UNetPredictor` reads it out.

The U-Net (Ronneberger et al. 2015) stands on the segmentor's own ImageNet tower and is read out by the segmentor's own
tiles and growing of objects, so that what differs is the method. It knows no words: one channel a concept. Training
is in `unet_training.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F

from slidekick.data.errors import InputError
from slidekick.grounding.instances import label_at_full_size
from slidekick.grounding.segmentor import zoom_for
from slidekick.grounding.sizes import DRAWN
from slidekick.grounding.tiles import Canvas, Tiling, rescale, sigmoid
from slidekick.grounding.tower import ARCHITECTURE, to_tensor
from slidekick.grounding.vocabulary import Concept

WEIGHTS, ABOUT = "unet.safetensors", "unet.json"
WIDTHS = (128, 96, 64, 32)  # of the decoder at strides 16, 8, 4, 2
NO_OBJECTS = -2.0  # interior logit before training: where no set tells objects apart, each piece stays one


class UNet(nn.Module):
    """forward: (B, 3, H, W) in −1…1, sides multiples of 32 -> logits (B, C + O, H/2, W/2).

    concepts: name -> kind. The first C channels are the concepts' masks, in order; then come the interiors
    (`windows.interior_map`) of the O concepts of kind "object", in order.
    """

    def __init__(self, concepts: Mapping[str, str]) -> None:
        super().__init__()
        self.names = list(concepts)
        self.objects = [name for name, kind in concepts.items() if kind == "object"]
        self.body = timm.create_model(ARCHITECTURE, features_only=True, pretrained=False)
        *skips, deepest = self.body.feature_info.channels()
        below = (deepest, *WIDTHS[:-1])
        self.up = nn.ModuleList(
            _block(low + skip, width) for low, skip, width in zip(below, skips[::-1], WIDTHS, strict=True)
        )
        self.head = nn.Conv2d(WIDTHS[-1], len(self.names) + len(self.objects), 1)
        nn.init.constant_(self.head.bias[len(self.names) :], NO_OBJECTS)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        *skips, state = self.body(pixels)
        for block, skip in zip(self.up, skips[::-1], strict=True):
            state = block(torch.cat([F.interpolate(state, scale_factor=2.0, mode="bilinear"), skip], 1))
        return self.head(state)

    def channels(self, concept: str) -> tuple[int, int | None]:
        """Channel of a concept's mask, and of its interior or None."""
        interior = len(self.names) + self.objects.index(concept) if concept in self.objects else None
        return self.names.index(concept), interior


def _block(into: int, width: int) -> nn.Sequential:
    layers = []
    for channels in (into, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNetPredictor:
    """A trained U-Net, run by torch and read out as `Segmentor.segment` is, for pictures of unknown scale.

    about: what `unet.json` holds; its `concepts` are name -> kind and zoom.
    """

    def __init__(self, model: UNet, about: dict) -> None:
        self.model = model.eval()
        self.about = about
        self.concepts = {
            name: Concept(name, entry["kind"], (), scale=(1.0, 1.0), zoom=entry["zoom"])
            for name, entry in about["concepts"].items()
        }

    @classmethod
    def load(cls, folder: str | Path) -> UNetPredictor:
        """From one set's folder, as `train_unet` writes it. Raises InputError for one that lacks or breaks a file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            about = json.loads((folder / ABOUT).read_text())
            model = UNet({name: entry["kind"] for name, entry in about["concepts"].items()})
            state = load_file(folder / WEIGHTS)
            model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
            return cls(model, about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{folder}: no trained U-Net ({type(error).__name__}); give a folder that `slidekick train unets` wrote"
            ) from error

    def predict(self, image: np.ndarray, concept: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Mask, bool (H, W); object ids, int32 (H, W), or None for a region; probability, float32 (H, W).

        image: uint8 (H, W, 3) RGB. concept: one of the set's. It is looked at at the concept's usual zoom.
        Raises InputError for a concept that it was not trained on.
        """
        if concept not in self.concepts:
            raise InputError(f"concept {concept!r} is not of this U-Net; it knows {', '.join(self.concepts)}")
        own = self.concepts[concept]
        canvas = self._look(image, concept, zoom_for(own, None, max(image.shape[:2])))
        probability = cv2.resize(canvas.drawn, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        mask = probability >= DRAWN
        if own.kind != "object":
            return mask, None, probability
        ids = label_at_full_size(canvas.objects(), mask)
        return ids > 0, ids, probability

    @torch.inference_mode()
    def _look(self, image: np.ndarray, concept: str, zoom: float) -> Canvas:
        scaled = rescale(image, zoom)
        tiling = Tiling.over(*scaled.shape[:2])
        canvas = Canvas(tiling)
        mask, interior = self.model.channels(concept)
        for place, tile in zip(tiling.places, tiling.cut(scaled), strict=True):
            logits = self.model(to_tensor(tile[None]))[0].numpy()
            pair = [logits[mask], logits[mask if interior is None else interior]]  # a region's second map is not read
            canvas.add(place, tiling.taper, sigmoid(np.stack(pair)), 0.0)
        return canvas
