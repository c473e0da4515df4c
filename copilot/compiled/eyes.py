"""mini's tower and connector run by OpenVINO: pictures of the tower's own side in, pooled map and image tokens out.

The graph is made once, by torch, from the model that holds the weights, and kept in the cache under their name. A
picture that a person asks about is seen in float32, as the reference sees it; a slide's thousands of tiles in bfloat16
where the processor has it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from slidekick.copilot.base import IMAGE_SIDE
from slidekick.data.files import cache_dir, check_writable
from slidekick.grounding.runtime import compiled, cores, openvino_package, write_graph

LAYOUT = 2  # of the graph; raise it when what it gives changes
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


class Eyes:
    """name: of the weights, which the graph is kept under. load: gives the model; called only where there is no graph.
    exact: whether to compute in float32."""

    def __init__(self, name: str, load: Callable[[], object], exact: bool = True) -> None:
        self.name, self._load, self.exact = name, load, exact
        self._ready, self._lock = None, threading.Lock()

    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, 192, 192, 3) -> float32 (B, 1280), the tower's pooled map, and (B, T, D), image tokens."""
        result = self._graph()([np.ascontiguousarray(pictures)])
        return result[0], result[1]

    def prepare(self) -> None:
        """Load the graph now, where it is there, and not with the first picture."""
        if self._file.is_file():
            self._graph()

    @property
    def _file(self) -> Path:
        version = openvino_package().__version__.split("-")[0]
        return cache_dir() / "graphs" / f"eyes-{self.name}-{LAYOUT}-{version}.xml"

    def _graph(self):
        with self._lock:
            self._ready = self._ready or self._loaded()
            return self._ready

    def _loaded(self):
        file = self._file
        if not file.is_file():
            import torch

            check_writable(file.parent)
            example = torch.zeros(2, IMAGE_SIDE, IMAGE_SIDE, 3, dtype=torch.uint8)
            write_graph(eyes_module(self._load()), (example,), [[-1, IMAGE_SIDE, IMAGE_SIDE, 3]], file)
        return compiled(file, {"INFERENCE_NUM_THREADS": cores(), **(EXACT if self.exact else {})})


def eyes_module(model):
    """A torch module: uint8 pictures (B, 192, 192, 3) -> pooled maps (B, 1280) and image tokens (B, 36, D)."""
    from torch import nn

    from slidekick.grounding.tower import to_tensor

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.connector = model.model.vision_tower.timm_model, model.model.multi_modal_projector

        def forward(self, pictures):
            maps = self.tower.forward_features(to_tensor(pictures).to(next(self.connector.parameters()).dtype))
            cells = maps.flatten(2).transpose(1, 2)  # (B, 36, 1280)
            return cells.mean(1), self.connector(cells)

    return Graph().eval()


def squeezed(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> (192, 192, 3), squeezed whatever its shape, as mini was taught pictures (bicubic)."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))
