"""The segmentor's network: an image encoder, SAM's prompt encoder and mask decoder, words as prompts, presence.

Follows Kirillov et al., "Segment Anything" (2023): a picture is embedded once, prompts are cheap. Words, points and
boxes all enter as sparse prompt tokens, a former mask as a dense one; ours draws points and boxes into the dense one
too. It gives two masks a prompt: the concept, and the interior of its objects (distance to the outline, 1 in the
middle), from which instances are grown. Fine image features join while the mask is drawn, as in SAM 2 (Ravi et al.
2024). Official SAM checkpoints load into the same class (`SegmentorConfig(encoder="vit_b")`); they know points and
boxes, no words. No files, no uint8 pixels here.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import timm
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from slidekick.grounding.attention import two_way
from slidekick.grounding.sizes import (
    CORNER_FIRST,
    CORNER_LAST,
    MASK_STRIDE,
    NEGATIVE,
    NO_POINT,
    PHRASE_WIDTH,
    POSITIVE,
    PYRAMID,
    UPSCALING,
    VITS,
    SegmentorConfig,
)
from slidekick.grounding.tower import ARCHITECTURE, to_tensor

TEXT_TOKENS = 2
LOUDNESS = 10.0  # of drawn marks, to be heard beside an embedding whose entries are of size 3
REACHES = (8.0, 64.0)  # window px at which a drawn click has faded: where it is, and what is around it
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of 0–255 pixels, for SAM's own encoders


class Features(NamedTuple):
    """What is known of B pictures before any prompt: embedding (B, D, h, w); fine (B, D/4, 2h, 2w) and finest
    (B, D/8, 4h, 4w) to be added while a mask is drawn, or None where the encoder has none."""

    embedding: torch.Tensor
    fine: torch.Tensor | None = None
    finest: torch.Tensor | None = None


class PyramidEncoder(nn.Module):
    """EfficientNet-Lite0 levels at strides 4, 8, 16, 32 merged into one embedding at stride 8, and two fine levels.

    The stride-4 level is also folded by space-to-depth into the embedding so that thin borders survive.
    forward: (B, 3, H, W) in −1…1, H and W multiples of 32 -> Features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = timm.create_model(ARCHITECTURE, features_only=True, pretrained=False)
        for name, part in [*self.body.named_modules()]:
            if isinstance(part, Conv2dSame):
                self.body.set_submodule(name, EvenConv(part))
        finest, fine, *rest = self.body.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (fine * 4, *rest))
        self.merge = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.fine = _skip(fine, width // 4)
        self.finest = _skip(finest, width // 8)

    def forward(self, pixels: torch.Tensor) -> Features:
        finest, fine, *rest = self.body(pixels)
        levels = [conv(level) for conv, level in zip(self.lateral, (F.pixel_unshuffle(fine, 2), *rest), strict=True)]
        size = levels[0].shape[-2:]
        total = sum((F.interpolate(level, size=size, mode="bilinear") for level in levels[2:]), levels[0] + levels[1])
        return Features(self.merge(total), self.fine(fine), self.finest(finest))


def _skip(channels: int, width: int) -> nn.Sequential:
    last = nn.Conv2d(width, width, 1)
    nn.init.zeros_(last.weight)  # starts as no skip at all
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.GELU(), last)


class EvenConv(nn.Conv2d):
    """A convolution at stride 2 that pads as TensorFlow does where sides are even: by numbers, which a graph can add to
    the convolution, and not by what it works out from each picture's sides."""

    def __init__(self, same: Conv2dSame) -> None:
        super().__init__(
            same.in_channels, same.out_channels, same.kernel_size, same.stride, groups=same.groups,
            bias=same.bias is not None,
        )  # fmt: skip
        self.weight, self.bias = same.weight, same.bias
        before = (same.kernel_size[0] - 2) // 2
        self.sides = (before, same.kernel_size[0] - 2 - before) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.sides))


class FineMaskDecoder(MaskDecoder):
    """SAM's mask decoder which, where fine features are given, adds them while it draws (SAM 2's skip connections).

    A transposed convolution of 2 x 2 at stride 2 is a linear layer with four times the channels: each cell is drawn by
    itself, 16 pixels of it, channels last, and only the masks are laid out as pictures. SAM's own way moves every
    channel about for that, most of its time on a CPU.
    """

    def draw(
        self, image: torch.Tensor, positions: torch.Tensor, sparse: torch.Tensor, features: Features, marks=None
    ) -> torch.Tensor:
        """Mask logits (P, masks, 4h, 4w).

        image: (P, D, h, w), or (1, D, h, w) where it is the same for all prompts, which is quicker. positions:
        (1, D, h, w). sparse: (P, N, D). marks: to be added to the finest features.
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], 1)
        cells, places = (level.flatten(2).transpose(1, 2) for level in (image, positions))
        states, cells = two_way(self.transformer, cells, places, tokens)
        first, norm, act, second, last_act = self.output_upscaling
        drawn = _halved(first, cells)
        drawn = (
            (drawn if features.fine is None else drawn + _by_cell(features.fine)).unflatten(2, (4, -1)).flatten(1, 2)
        )
        drawn = act(F.layer_norm(drawn, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        drawn = _halved(second, drawn)
        drawn = drawn if features.finest is None else drawn + _by_quarter(features.finest)
        drawn = last_act(drawn if marks is None else drawn + _by_quarter(marks))
        weights = [mlp(states[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = drawn.unflatten(2, (4, -1)).flatten(1, 2) @ torch.stack(weights, 2)
        height, width = image.shape[-2:]
        laid = masks.view(masks.shape[0], height, width, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
        return laid.reshape(masks.shape[0], -1, UPSCALING * height, UPSCALING * width)


def _halved(layer: nn.ConvTranspose2d, cells: torch.Tensor) -> torch.Tensor:
    """(P, n, C) -> (P, n, 4 · D): what a transposed convolution of 2 x 2 at stride 2 makes of each cell, row by row."""
    weight = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.in_channels)
    return F.linear(cells, weight, layer.bias.repeat(4))


def _by_cell(level: torch.Tensor) -> torch.Tensor:
    """(B, C, 2h, 2w) -> (B, h·w, 4 · C): the pixels of each cell, row by row."""
    batch, channels, height, width = level.shape
    parts = level.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(batch, -1, 4 * channels)


def _by_quarter(level: torch.Tensor) -> torch.Tensor:
    """(B, C, 4h, 4w) -> (B, h·w·4, 4 · C): the pixels of each quarter of each cell, row by row."""
    batch, channels, height, width = level.shape
    parts = level.view(batch, channels, height // 4, 2, 2, width // 4, 2, 2).permute(0, 2, 5, 3, 6, 4, 7, 1)
    return parts.reshape(batch, -1, 4 * channels)


class PresenceHead(nn.Module):
    """Is the concept in the picture at all? Text attends to the embedding; the drawn mask's strongest places join in.

    forward: embedding (P, D, h, w), text (P, D), mask logits (P, 4h, 4w) -> logits (P,).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.score = nn.Sequential(nn.Linear(3 * width + 1, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, embedding: torch.Tensor, text: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        cells = embedding.flatten(2)
        weights = (self.query(text)[:, None] @ cells / cells.shape[1] ** 0.5).softmax(2)
        seen = (weights @ cells.transpose(1, 2))[:, 0]
        places = F.avg_pool2d(masks.detach()[:, None], UPSCALING).flatten(1)  # a cell, so that no speck decides
        strongest = places.topk(4, dim=1).values.mean(1, keepdim=True)
        return self.score(torch.cat([seen, seen * text, text, strongest], 1)).squeeze(1)


class TextTokens(nn.Module):
    """Phrase embeddings to prompt tokens: (P, PHRASE_WIDTH) -> (P, TEXT_TOKENS, D); a zero row means "no words".

    Both ends are normalised: the embeddings' entries are a twentieth of what a linear layer expects, and tokens that
    small tell no two phrases apart for thousands of steps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.LayerNorm(PHRASE_WIDTH),
            nn.Linear(PHRASE_WIDTH, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, TEXT_TOKENS * width),
            nn.Unflatten(1, (TEXT_TOKENS, width)),
            nn.LayerNorm(width),
        )
        self.no_text = nn.Parameter(torch.randn(TEXT_TOKENS, width))

    def forward(self, phrases: torch.Tensor) -> torch.Tensor:
        said = (phrases != 0).any(1)[:, None, None]
        return torch.where(said, self.project(phrases), self.no_text)


class DrawnMarks(nn.Module):
    """Boxes and clicks as pictures for convolutions, which learn from them far sooner than from tokens' positions.

    The idea is RITM's (Sofiiuk et al. 2022, arXiv 2102.06583), whose network is given clicks as discs.
    forward: points (P, N, 2), labels (P, N), size (h, w) of the embedding -> what to add to the embedding
    (P, D, h, w) and, while a mask is drawn, to its finest features (P, D/8, 4h, 4w); 0 for a prompt without marks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = 3 + 2 * len(REACHES)
        self.coarse = nn.Sequential(  # without biases, so that nothing drawn adds nothing
            nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False),
            nn.GELU(),
            nn.Conv2d(16, 64, 3, stride=2, padding=1, bias=False),
            nn.GELU(),
            nn.Conv2d(64, width, 1, bias=False),
        )
        self.finest = nn.Conv2d(channels, width // 8, 3, padding=1, bias=False)
        for layer in self.coarse[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(self.finest.weight)  # starts with what is known of drawing

    def forward(
        self, points: torch.Tensor, labels: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = self.picture(points, labels, size)
        return LOUDNESS * self.coarse(drawn), self.finest(drawn)

    @staticmethod
    def picture(points: torch.Tensor, labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(P, 7, 4h, 4w), 0–1: inside the box, outside it, how near its middle; nearness of clicks of either kind."""
        rows, columns = (
            (torch.arange(length * UPSCALING, device=points.device, dtype=points.dtype) + 0.5) * MASK_STRIDE
            for length in size
        )
        has_box = (labels == CORNER_FIRST).any(1).to(points.dtype)[:, None, None]
        low, high = ((points * (labels == kind)[..., None]).sum(1) for kind in (CORNER_FIRST, CORNER_LAST))
        middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=1)
        aside = (columns - middle[:, :1]).abs()[:, None, :], (rows - middle[:, 1:]).abs()[:, :, None]
        inner = [half[:, axis, None, None] - distance for axis, distance in enumerate(aside)]  # px to the box's edge
        inside = has_box * torch.minimum(*inner).div(MASK_STRIDE).add(0.5).clamp(0, 1)
        shares = [px / half[:, axis, None, None] for axis, px in enumerate(inner)]
        centred = has_box * torch.minimum(*shares).clamp(0, 1)
        far = ((columns - points[..., :1])[:, :, None, :] ** 2 + (rows - points[..., 1:])[..., None] ** 2).sqrt()
        clicks = [
            ((1 - far / reach).clamp(min=0) * (labels == kind)[..., None, None]).amax(1)
            for kind in (POSITIVE, NEGATIVE)
            for reach in REACHES
        ]
        return torch.stack([inside, has_box - inside, centred, *clicks], 1)


class SegmentorModel(nn.Module):
    """All parts together: `encode` a picture once, `decode` as many prompts as wanted."""

    def __init__(self, config: SegmentorConfig) -> None:
        super().__init__()
        self.config = config
        width, grid = config.width, config.window // config.stride
        self.prompt_encoder = PromptEncoder(width, (grid, grid), (config.window, config.window), mask_in_chans=16)
        self.mask_decoder = FineMaskDecoder(
            transformer_dim=width,
            transformer=TwoWayTransformer(config.depth, width, config.heads, config.mlp),
            num_multimask_outputs=config.masks - 1,
        )
        if config.encoder == PYRAMID:
            self.encoder = PyramidEncoder(width)
            self.text = TextTokens(width)
            self.marks = DrawnMarks(width)
            self.presence = PresenceHead(width)
        else:
            self.image_encoder = _vit(config)

    def encode(self, pixels: torch.Tensor) -> Features:
        """pixels (B, 3, H, W) as the encoder expects them -> Features."""
        return self.encoder(pixels) if self.config.knows_words else Features(self.image_encoder(pixels))

    def decode(
        self,
        features: Features,
        phrases: torch.Tensor,
        points: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        former: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of P prompts.

        features: of one picture, or of one a prompt. phrases: (P, PHRASE_WIDTH), zero rows for no words.
        points: (P, N, 2) x, y in px; labels: int64 (P, N), NO_POINT for filling, corners for a box.
        former: mask logits to correct, (P, 4h, 4w). Returns mask logits (P, masks, 4h, 4w), presence logits (P,).
        """
        number = phrases.shape[0]
        sparse = self.text(phrases) if self.config.knows_words else phrases.new_zeros(number, 0, self.config.width)
        if points is not None:
            sparse = torch.cat([sparse, self._point_tokens(points, labels)], 1)
        if former is None:
            dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        else:
            dense = self.prompt_encoder.mask_downscaling(former[:, None])
        image, finest = features.embedding, None
        prompted = image + dense  # one for all prompts where nothing but words is given
        if points is not None and self.config.knows_words:
            coarse, finest = self.marks(points, labels, image.shape[-2:])
            # Flattened, or OpenVINO adds within the convolution, which it cannot where one side is for all prompts.
            prompted = (prompted.flatten(2) + coarse.flatten(2)).view_as(coarse)
        masks = self.mask_decoder.draw(prompted, self._positions(image.shape[-2:]), sparse, features, finest)
        if not self.config.knows_words:
            return masks, phrases.new_full((number,), 20.0)  # it draws what it is pointed at
        return masks, self.presence(image, sparse[:, 0], masks[:, 0])

    def _positions(self, size: tuple[int, int]) -> torch.Tensor:
        """SAM's random Fourier positions of a grid of cells, (1, D, h, w), counted over `window` px whatever its size.

        sin(x + y) and cos(x + y) are put together from those of the rows and the columns.
        """
        matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        columns, rows = (
            2 * torch.pi * (2 * self._middles(length, matrix) - 1)[:, None] * towards
            for length, towards in zip((size[1], size[0]), matrix, strict=True)
        )
        rows = rows[:, None]
        sines = rows.sin() * columns.cos() + rows.cos() * columns.sin()
        cosines = rows.cos() * columns.cos() - rows.sin() * columns.sin()
        return torch.cat([sines, cosines], 2).permute(2, 0, 1)[None]

    def _middles(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """Of so many cells, over the window."""
        cells = torch.arange(length, device=like.device, dtype=like.dtype)
        return (cells + 0.5) * self.config.stride / self.config.window

    def _point_tokens(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """SAM's point and corner tokens in one go: (P, N, 2), (P, N) -> (P, N, D)."""
        encoder = self.prompt_encoder
        kinds = torch.cat([encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embeddings)])
        positions = encoder.pe_layer._pe_encoding((points + 0.5) / self.config.window)
        return positions * (labels != NO_POINT)[..., None] + kinds[labels + 1]


def pixel_tensor(pixels: torch.Tensor, encoder: str) -> torch.Tensor:
    """uint8 (B, H, W, 3), array or tensor -> float32 (B, 3, H, W) as the encoder expects it."""
    if encoder == PYRAMID:
        return to_tensor(pixels)
    mean, std = (torch.tensor(values)[:, None, None] for values in (SAM_MEAN, SAM_STD))
    return (torch.as_tensor(pixels).movedim(-1, -3).float() - mean) / std


def _vit(config: SegmentorConfig) -> ImageEncoderViT:
    width, depth, heads, everywhere = VITS[config.encoder]
    return ImageEncoderViT(
        img_size=config.window, patch_size=16, in_chans=3, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=4,
        out_chans=config.width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        rel_pos_zero_init=True, global_attn_indexes=everywhere, window_size=14,
    )  # fmt: skip
