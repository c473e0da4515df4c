"""The segmentor's network: compact pyramid encoder, SAM's prompt encoder and mask decoder, text tokens, presence.

Follows Kirillov et al., "Segment Anything" (2023): an image is embedded once, prompts are cheap. Text enters as
sparse prompt tokens. Two mask tokens are used: the first draws the concept, the second the interior of its objects
(distance to the outline, 1 in the middle), from which instances are grown. No files, no pixels in uint8 here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn
from torch.nn import functional as F

from slidekick.grounding.text import TextEncoder
from slidekick.grounding.tower import ARCHITECTURE

EMBED_STRIDE = 8  # embedding cells are 8 px; SAM's decoder draws at a quarter of that: one logit a 2 px square
MASK_STRIDE = 2


@dataclass(frozen=True)
class SegmentorConfig:
    """Sizes of the network. window: side of the square it sees at once, in px at the concept's working scale."""

    window: int = 256
    width: int = 128
    heads: int = 4
    depth: int = 2
    mlp: int = 512

    def to_dict(self) -> dict:
        return asdict(self)


class PyramidEncoder(nn.Module):
    """EfficientNet-Lite0 levels at strides 4, 8, 16, 32 merged into one embedding at stride 8.

    The stride-4 level is folded by space-to-depth so that thin borders survive. forward: (B, 3, H, W) in −1…1 ->
    (B, width, H/8, W/8).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = timm.create_model(ARCHITECTURE, features_only=True, pretrained=False, out_indices=(1, 2, 3, 4))
        fine, *rest = self.body.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (fine * 4, *rest))
        self.merge = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        fine, *rest = self.body(pixels)
        levels = [conv(level) for conv, level in zip(self.lateral, (F.pixel_unshuffle(fine, 2), *rest), strict=True)]
        size = levels[0].shape[-2:]
        total = sum((F.interpolate(level, size=size, mode="bilinear") for level in levels[2:]), levels[0] + levels[1])
        return self.merge(total)


class PresenceHead(nn.Module):
    """Is the concept in the window at all? Text attends to the embedding; the drawn mask's strongest logits join in.

    forward: embedding (D, h, w), text (P, D), mask logits (P, H, W) -> logits (P,).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.score = nn.Sequential(nn.Linear(3 * width + 1, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, embedding: torch.Tensor, text: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        cells = embedding.flatten(1).T
        weights = (self.query(text) @ cells.T / cells.shape[1] ** 0.5).softmax(1)
        seen = weights @ cells
        strongest = masks.detach().flatten(1).topk(64, dim=1).values.mean(1, keepdim=True)
        return self.score(torch.cat([seen, seen * text, text, strongest], 1)).squeeze(1)


class SegmentorModel(nn.Module):
    """All parts together.

    encode(pixels (B, 3, W, W) in −1…1) -> embeddings (B, D, W/8, W/8);
    decode(embedding (D, h, w), phrases) -> mask logits (P, W/2, W/2), interior logits (same), presence logits (P,).
    """

    def __init__(self, config: SegmentorConfig) -> None:
        super().__init__()
        self.config = config
        width, grid = config.width, config.window // EMBED_STRIDE
        self.encoder = PyramidEncoder(width)
        self.text = TextEncoder(width)
        self.prompt_encoder = PromptEncoder(width, (grid, grid), (config.window, config.window), mask_in_chans=16)
        self.mask_decoder = MaskDecoder(
            transformer_dim=width,
            transformer=TwoWayTransformer(config.depth, width, config.heads, config.mlp),
            num_multimask_outputs=1,
        )
        self.presence = PresenceHead(width)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixels)

    def decode(self, embedding: torch.Tensor, phrases: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = self.text(phrases)
        _, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
        masks, _ = self.mask_decoder.predict_masks(
            image_embeddings=embedding[None],
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=dense.expand(len(phrases), -1, -1, -1),
        )
        present = self.presence(embedding, tokens[:, 0], masks[:, 0])
        return masks[:, 0], masks[:, 1], present
