"""A model of mini's kind in small, made of random numbers, in a folder as training leaves it."""

from pathlib import Path

import numpy as np
import torch
from tiny_models import make_tokenizer, tiny_config

from slidekick.copilot.experts import ExpertPlan, Experts

TARGETS = r".*language_model.*\.1\..*(q_proj|v_proj|o_proj|up_proj|down_proj)"


def make_places(root: Path, image: np.ndarray) -> tuple[Path, Path]:
    """(base, folder): the base of a model in small, and a folder as training leaves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import FastVlmForConditionalGeneration

    from slidekick.copilot.base import make_processor, vision_config
    from slidekick.grounding.tower import float16_bytes, to_tensor

    base, folder = root / "base-small", root / "mini"
    processor = make_processor(make_tokenizer("text"))
    torch.manual_seed(3)
    model = FastVlmForConditionalGeneration(tiny_config(processor, vision_config(), len(processor.tokenizer)))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    with torch.no_grad():  # loud enough that one token stands out, and that a random tower is seen at all
        model.model.language_model.embed_tokens.weight.mul_(8)
        seen = model.model.vision_tower.timm_model.eval().forward_features(to_tensor(image[None, :32, :32]))
        model.model.multi_modal_projector.linear_1.weight.div_(seen.std())
    model.save_pretrained(base)
    processor.save_pretrained(base)
    tower = {name: value.half().float() for name, value in model.model.vision_tower.timm_model.state_dict().items()}
    folder.mkdir()
    (folder / "tower.safetensors").write_bytes(float16_bytes(tower))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, modules_to_save=["multi_modal_projector"])
    adapted = get_peft_model(model, lora)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.1)
    adapted.save_pretrained(folder)
    for place, seed in ((folder / "experts", 5), (folder / "slides", 6)):
        plain = FastVlmForConditionalGeneration.from_pretrained(base)
        names = ("first", "second", "third") if place.name == "experts" else ("slide",)
        experts = Experts(plain, ExpertPlan(names, 2, 8, TARGETS, hidden=8), 32, 32)
        torch.manual_seed(seed)
        with torch.no_grad():
            for one in experts.trainable():
                one.normal_(std=0.3)
        experts.save(place, "base")
    return base, folder
