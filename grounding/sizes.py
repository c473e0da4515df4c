"""Sizes of the segmentor's network, without the network: what its runtimes and the tiling need to know."""

from __future__ import annotations

from dataclasses import asdict, dataclass

PYRAMID = "pyramid"
VITS = {  # width, depth, heads, layers with global attention: SAM's three sizes
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
UPSCALING = 4  # SAM's decoder draws at a quarter of a cell of the embedding
MASK_STRIDE = 2  # window px of a cell of our masks
FILLED = 0.7  # of a window's side that a picture must fill; the rest is mirrored
DRAWN = 0.5  # probability from which a pixel belongs to the concept
LEAST = 10.0  # mask cells of an object; a smaller speck is more likely stain
OBJECT_SHARES = (0.1, 0.7)  # of a window's side that an object fills which is pointed at
CLOSEST = 3.0  # zoom beyond which nothing more is seen of it
PHRASE_WIDTH = 384  # of a phrase's vector
NO_POINT, NEGATIVE, POSITIVE, CORNER_FIRST, CORNER_LAST = -1, 0, 1, 2, 3  # labels of point tokens, SAM's numbers


@dataclass(frozen=True)
class SegmentorConfig:
    """Sizes of the network.

    encoder: "pyramid" (ours) or SAM's "vit_b", "vit_l", "vit_h". window: px over which positions are counted as 0–1
    (1024 in SAM, whose encoder takes no other size; ours takes any multiple of 32). masks: masks a prompt.
    """

    encoder: str = PYRAMID
    window: int = 256
    width: int = 128
    heads: int = 4
    depth: int = 2
    mlp: int = 512
    masks: int = 2

    @property
    def stride(self) -> int:
        """px of a cell of the embedding."""
        return MASK_STRIDE * UPSCALING if self.encoder == PYRAMID else 16

    @property
    def knows_words(self) -> bool:
        """Official SAM checkpoints take points and boxes only."""
        return self.encoder == PYRAMID

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def sam(cls, encoder: str) -> SegmentorConfig:
        """Sizes of an official SAM checkpoint."""
        return cls(encoder, window=1024, width=256, heads=8, depth=2, mlp=2048, masks=4)
