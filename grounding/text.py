"""Words to vectors: a small subword text encoder, trained together with the segmentor. No pretrained language model.

A phrase becomes the mean of its character n-grams' embeddings (Bojanowski et al., "Enriching word vectors with
subword information", TACL 2017), so that "nuclei", "nucleus" and a misspelling share most of what they carry.
"""

from __future__ import annotations

import re
import zlib

import torch
from torch import nn

BUCKETS = 4096  # n-grams of a few dozen phrases collide rarely at this size
NGRAMS = (3, 4, 5)


def normalise(phrase: str) -> str:
    """Lower case, letters, digits and single spaces only."""
    return re.sub(r"[^a-z0-9]+", " ", phrase.lower()).strip()


def ngram_ids(phrase: str) -> list[int]:
    """Hash buckets of the phrase's words and character n-grams, at least one."""
    ids = []
    for word in normalise(phrase).split():
        padded = f"<{word}>"
        grams = {padded[i : i + n] for n in NGRAMS for i in range(max(1, len(padded) - n + 1))} | {padded}
        ids += [zlib.crc32(gram.encode()) % BUCKETS for gram in sorted(grams)]
    return ids or [0]


class TextEncoder(nn.Module):
    """Phrases to prompt tokens.

    forward(phrases: list of P strings) -> (P, tokens, width) float32, for SAM's sparse prompt slot.
    """

    def __init__(self, width: int, tokens: int = 2) -> None:
        super().__init__()
        self.tokens = tokens
        self.ngrams = nn.EmbeddingBag(BUCKETS, width, mode="mean")
        self.project = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, tokens * width)
        )
        nn.init.normal_(self.ngrams.weight, std=1.0)

    def forward(self, phrases: list[str]) -> torch.Tensor:
        ids = [ngram_ids(phrase) for phrase in phrases]
        offsets = torch.tensor([0, *[len(row) for row in ids[:-1]]]).cumsum(0)
        flat = torch.tensor([index for row in ids for index in row])
        device = self.ngrams.weight.device
        pooled = self.ngrams(flat.to(device), offsets.to(device))
        return self.project(pooled).unflatten(1, (self.tokens, -1))
