"""From the tiles of a slide to what the language model reads and to what is measured: tissues, places, 36 slide tokens.

Each tile is one vector of the shared tower. Its neighbours are looked at as well, since tissue lies in areas; a tile
is then given to one of the tissues that the encoder was taught. The language model gets 6 x 6 tokens, as of a
picture: each gathers the tiles around its place on the tissue (attention by distance, as a resampler with fixed
queries; Perceiver, Jaegle et al. 2021), starting from the tiles' own image tokens, which the model reads already.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from slidekick.data.errors import InputError, first_line
from slidekick.data.files import write_atomic

SIDE = 6  # tokens along each side, as of mini's pictures
WEIGHTS, ABOUT = "encoder.safetensors", "encoder.json"
SCHEMA = "slidekick.slide_encoder/1"
NEAR, WIDE = 1.0, 3.0  # tiles: spread of the two neighbourhoods that a tile is seen in
EMPTY = 1e-3  # weight of bare glass against tiles under a token: it speaks where no tile is near


@dataclass(frozen=True)
class SlidePlan:
    """tissues: what a tile can be. features, tokens: widths of the tower's pooled map and of an image token. hidden:
    inner width. temperature: the tissues' logits are divided by it (fitted on held-out slides). least: share of the
    tissue from which a tissue is there. kinds: tissue -> more general terms that it is a case of."""

    tissues: tuple[str, ...]
    features: int = 1280
    tokens: int = 576
    hidden: int = 256
    temperature: float = 1.0
    least: float = 0.02
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)


class SlideEncoder(nn.Module):
    """Tiles of one slide in, tissues and tokens out."""

    def __init__(self, plan: SlidePlan) -> None:
        super().__init__()
        self.plan = plan
        self.enter = nn.Sequential(nn.LayerNorm(plan.features), nn.Linear(plan.features, plan.hidden), nn.GELU())
        self.mix = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * plan.hidden, plan.hidden), nn.GELU())
        self.tissue = nn.Linear(plan.hidden, len(plan.tissues))
        self.add = nn.Linear(plan.hidden, plan.tokens)
        self.glass = nn.Parameter(torch.zeros(plan.tokens))
        self.reach = nn.Parameter(torch.tensor(0.1).log())  # of a token, in sides of the tissue's box
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)

    def states(self, features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(N, hidden) of each tile among its neighbours. features: (N, 1280). places: (N, 2), (x, y) in tiles."""
        own = self.enter(features)
        far = torch.cdist(places, places).square()
        seen = [torch.softmax(-far / (2 * spread**2), -1) @ own for spread in (NEAR, WIDE)]
        whole = own.mean(0, keepdim=True).expand_as(own)  # of one organ, mostly
        return self.mix(torch.cat([own, *seen, whole], -1))

    def tissues(self, features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(N, K): logits of the tissues for each tile."""
        return self.tissue(self.states(features, places)) / self.plan.temperature

    def shares(self, features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(K,): share of the tiles that each tissue takes, every tile counted for its likeliest."""
        best = self.tissues(features, places).argmax(-1)
        return torch.bincount(best, minlength=len(self.plan.tissues)) / max(len(best), 1)

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(36, D): the slide's tokens, row by row over the tissue's box. tokens: (N, D), the tiles' mean image tokens.

        A slide without a tile is glass all over.
        """
        if not len(features):
            return self.glass.expand(SIDE * SIDE, -1)
        values = tokens + self.add(self.states(features, places))
        weights = self.attention(places)
        return weights[:, :-1] @ values + weights[:, -1:] * self.glass

    def attention(self, places: torch.Tensor) -> torch.Tensor:
        """(36, N + 1): how much each token takes of each tile, and last of bare glass; rows add up to 1."""
        low, span = places.min(0).values, (places.max(0).values - places.min(0).values).clamp(min=1)
        inside = (places - low) / span.max()
        centre = (torch.arange(SIDE, dtype=places.dtype, device=places.device) + 0.5) / SIDE
        box = span / span.max()
        y, x = torch.meshgrid(centre * box[1], centre * box[0], indexing="ij")
        far = torch.cdist(torch.stack([x.flatten(), y.flatten()], -1), inside).square()
        near = torch.exp(-far / (2 * self.reach.exp().square()))
        weights = torch.cat([near, near.new_full((len(near), 1), EMPTY)], -1)
        return weights / weights.sum(-1, keepdim=True)

    def save(self, folder: Path) -> None:
        """Write encoder.safetensors (float16) and, last, encoder.json, each atomically."""
        from slidekick.grounding.tower import float16_bytes

        write_atomic(folder / WEIGHTS, float16_bytes(self.state_dict()))
        write_atomic(folder / ABOUT, json.dumps({"schema": SCHEMA, **asdict(self.plan)}, indent=1) + "\n")


def load_slide_encoder(folder: Path) -> SlideEncoder:
    """Raises InputError where a file is missing or is not what it should be."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        kinds = {name: tuple(terms) for name, terms in about["kinds"].items()}
        plan = SlidePlan(**{**about, "tissues": tuple(about["tissues"]), "kinds": kinds})
        encoder = SlideEncoder(plan)
        encoder.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = first_line(error, 120)
        raise InputError(f"{folder}: no slide encoder ({reason}); give what `slidekick train slides` wrote") from error
    return encoder.eval()
