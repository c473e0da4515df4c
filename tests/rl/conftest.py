"""Labelled pictures, a tokenizer of a few hundred words and a small random mini, so that training needs no download."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slidekick.data.items import load_items

_spec = importlib.util.spec_from_file_location(
    "copilot_fixtures", Path(__file__).parents[1] / "copilot" / "conftest.py"
)
_copilot = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_copilot)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """Two labelled sets with questions of their own, and one without labels; their colour tells the label."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    sets = {
        "glas": ("colon", ["healthy gland", "malignant gland"]),
        "gbm40": ("brain", ["glioma", "necrosis", "oedema"]),
        "loose": ("liver", [None]),
    }
    for name, (organ, labels) in sets.items():
        folder = root / name
        folder.mkdir()
        entries = []
        for i in range(6):
            colour = 60 + 60 * (i % len(labels))
            pixels = (rng.normal(colour, 12, (40 + 7 * i, 50, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            entry = {"id": str(i), "group": str(i), "image": f"{i}.png", "organ": organ, "stain": "H&E (frozen)"}
            label = labels[i % len(labels)]
            entry |= {"split": "train" if i < 5 else "test"} | ({"label": label} if label else {})
            entries.append(json.dumps(entry))
        (folder / "items.jsonl").write_text("\n".join(entries))
    return root


@pytest.fixture(scope="session")
def items(labelled) -> list:
    return load_items(labelled, split="train")


@pytest.fixture(scope="session")
def processor():
    from slidekick.copilot.base import make_processor

    return make_processor(_copilot.make_tokenizer("text"))


@pytest.fixture
def make_model(processor, random_tower):
    """Makes mini in small: the real tower at random, a language model of two thin layers; equal each time."""
    import torch
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration, LlamaConfig

    from slidekick.copilot.base import IMAGE_SIDE, IMAGE_TOKEN, PATCH, load_tower, vision_config

    def make(tower: Path | None = None):
        from safetensors.torch import load_file

        torch.manual_seed(3)
        text = LlamaConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
        )
        config = FastVlmConfig(
            vision_config=vision_config(),
            text_config=text.to_dict(),
            image_token_index=processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
            tie_word_embeddings=True,
        )
        model = FastVlmForConditionalGeneration(config)
        state = {k: v for k, v in random_tower.items() if not k.startswith("classifier.")}
        load_tower(model, state if tower is None else load_file(tower))
        return model.eval()

    return make
