"""A slide of two tissues that their colour tells, and what stands in for tower, encoder and model to read it."""

from pathlib import Path

import numpy as np
import torch
from scripted import call
from slide_files import write_pyramid

from slidekick.copilot.slide_encoder import SlideEncoder, SlidePlan
from slidekick.copilot.turn import Turn

TUMOUR, FAT = "lung adenocarcinoma", "adipose tissue"
COLOURS = {TUMOUR: (150, 40, 150), FAT: (230, 120, 60)}
PLAN = SlidePlan((TUMOUR, FAT, "stroma"), features=3, tokens=32, hidden=16, kinds={TUMOUR: ("tumour",), FAT: (FAT,)})


class ColourTower:
    """A tile is its mean colour; counts the tiles it was given."""

    features, tokens, name = 3, 32, "colours"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, tiles: np.ndarray):
        self.seen += len(tiles)
        mean = tiles.mean((1, 2)).astype(np.float32) / 255
        return mean, np.tile(mean[:, :1], (1, self.tokens))


def taught_encoder() -> SlideEncoder:
    """Knows the two colours, and a third that no slide here shows."""
    torch.manual_seed(0)
    encoder = SlideEncoder(PLAN)
    colours = torch.tensor([*COLOURS.values(), (60, 90, 200)]).float() / 255
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    for _ in range(200):
        kinds = torch.randint(3, (2,)).repeat_interleave(6)  # one of them on each half
        features = colours[kinds] + 0.02 * torch.randn(12, 3)
        places = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij"), -1).reshape(-1, 2)
        loss = torch.nn.functional.cross_entropy(encoder.tissues(features, places), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval()


def paint_case(folder: Path) -> Path:
    """`case.tif`: tumour on the left third of the tissue, fat on the rest, glass around; 0.5 µm."""
    pixels = np.full((2600, 3600, 3), 244, np.uint8)
    pixels[400:2200, 300:1300] = COLOURS[TUMOUR]
    pixels[400:2200, 1300:3300] = COLOURS[FAT]
    noise = np.random.default_rng(0).integers(-9, 10, (*pixels.shape[:2], 1))
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return write_pyramid(folder / "case.tif", pixels, 3, 0.5)


class TumourEngine:
    """Reads lung, and looks for tumour at every other question."""

    name, history, reads_slides = "fixed", 0, True

    def turn(self, messages, image, tools, *, calls=True):
        opening = "main tissue" in messages[0]["content"][-1]["text"]
        yield Turn("lung" if opening else call("segment", TUMOUR) if len(messages) == 1 else "Yes.", 0.9)
