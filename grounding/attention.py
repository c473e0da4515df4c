"""SAM's two-way transformer over few tokens and many cells, without moving the cells about.

The same numbers as `segment_anything`'s `TwoWayTransformer` from the same weights. There, cells are projected to keys,
values or queries and parted by heads, which copies all of them each time; here each head's projection is folded into
the few tokens' side, (q_h W_h) x in place of q_h (W_h x), so that cells are only ever multiplied as they lie. It takes
as many operations and a fraction of the memory traffic.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import TwoWayTransformer


def two_way(
    transformer: TwoWayTransformer, cells: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, cells) after all layers.

    cells: (P, n, D), or (1, n, D) where they are the same for all prompts. places: their positions, (1, n, D).
    tokens: (P, N, D), which are their own positions.
    """
    states = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            states = layer.self_attn(states, states, states)
        else:
            states = states + layer.self_attn(states + tokens, states + tokens, states)
        states, placed = layer.norm1(states), cells + places
        states = layer.norm2(states + _gathered(layer.cross_attn_token_to_image, states + tokens, placed, cells))
        states = layer.norm3(states + layer.mlp(states))
        cells = layer.norm4(cells + _spread(layer.cross_attn_image_to_token, placed, states + tokens, states))
    last = transformer.final_attn_token_to_image
    states = states + _gathered(last, states + tokens, cells + places, cells)
    return transformer.norm_final_attn(states), cells


def _gathered(attention, tokens: torch.Tensor, placed: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(P, N, D): what tokens read of the cells. The keys' bias is the same for all cells, so softmax leaves it out."""
    keys, values = _by_head(attention, attention.k_proj), _by_head(attention, attention.v_proj)
    queries = _parted(attention, attention.q_proj(tokens))
    asked = (queries @ keys).flatten(1, 2)  # (P, heads · N, D)
    seen = (_scaled(attention, asked @ placed.transpose(1, 2)).softmax(-1) @ cells).unflatten(1, queries.shape[1:3])
    read = seen @ values.transpose(1, 2)  # (P, heads, N, d)
    return attention.out_proj(read.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _spread(attention, placed: torch.Tensor, tokens: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """(P, n, D): what cells read of the tokens."""
    keys, values = (_parted(attention, one) for one in (attention.k_proj(tokens), attention.v_proj(states)))
    asked = (keys @ _by_head(attention, attention.q_proj)).flatten(1, 2)  # (P, heads · N, D)
    bias = attention.q_proj.bias.view(keys.shape[1], -1, 1)
    heard = placed @ asked.transpose(1, 2) + (keys @ bias).flatten(1)[:, None]
    weights = _scaled(attention, heard).unflatten(2, keys.shape[1:3]).softmax(-1).flatten(2)
    out = attention.out_proj.weight.t().unflatten(0, (keys.shape[1], -1))  # (heads, d, D)
    return weights @ (values @ out).flatten(1, 2) + attention.out_proj.bias


def _by_head(attention, layer: torch.nn.Linear) -> torch.Tensor:
    """(heads, d, D): a projection's weight."""
    return layer.weight.unflatten(0, (attention.num_heads, -1))


def _parted(attention, states: torch.Tensor) -> torch.Tensor:
    """(P, N, heads · d) -> (P, heads, N, d)."""
    return states.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def _scaled(attention, logits: torch.Tensor) -> torch.Tensor:
    return logits * (attention.internal_dim // attention.num_heads) ** -0.5
