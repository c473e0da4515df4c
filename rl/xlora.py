"""X-LoRA over the same experts, as PEFT has it: the peer that our router is measured against.

X-LoRA (Buehler & Buehler 2024, arXiv 2402.07148) weighs all experts anew for every token and layer, from the hidden
states of a first pass without them; only that classifier is trained, the experts stay. Its first pass would grow a
cache twice, so it reads each token without one: a peer to measure, not a way to serve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, XLoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from slidekick.copilot.mini import ABOUT, load_mini
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.copilot.turn import token_ids
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.grounding.tower import float16_bytes
from slidekick.rl.evaluation.arms import CLASSIFIER
from slidekick.rl.mixture import load_config, prepared_rows, start_of
from slidekick.rl.resuming import go_through
from slidekick.rl.sft import CachedVisionCollator, CachedVisionTrainer, cached_arguments

XLORA = "xlora"  # folder of what was trained


def train_xlora(config_path: Path, data: Path, out: Path, experts: Path, resume: bool = False) -> Path:
    """Train X-LoRA's classifier over the trained `experts` and return the folder that holds it.

    config_path: such as rl/configs/xlora.yaml; start, views, instructions and sft count. Raises InputError for a
    configuration, data or experts that cannot be used.
    """
    from datasets import Dataset

    config = load_config(config_path, ("views", "instructions", "sft"), "rl/configs/xlora.yaml")
    arguments = cached_arguments(config["sft"], out, config_path)
    model, processor = load_mini(Path(start_of(config)))
    model.requires_grad_(False)
    out.mkdir(parents=True, exist_ok=True)
    rows, maps = prepared_rows(model, processor, config, config_path, data, out)
    trainer = CachedVisionTrainer(
        model=put_xlora(model, experts),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=CachedVisionCollator(maps.array, processor.tokenizer.pad_token_id),
        processing_class=processor,
    )
    go_through(trainer, out, resume)
    write_atomic(out / XLORA / CLASSIFIER, float16_bytes(_classifier(trainer.model).state_dict()))
    write_atomic(out / "log.json", json.dumps(trainer.state.log_history, indent=1))
    return out / XLORA


def put_xlora(model, experts: Path) -> PeftModel:
    """`model` with the saved experts under X-LoRA's classifier, untrained."""
    try:
        names = json.loads((experts / ABOUT).read_text())["names"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{experts}: no experts; give the folder that `slidekick train experts` wrote") from error
    model.config.use_cache = False
    # PEFT knows its adapters by their numbers, whatever they are called here.
    adapters = {str(number): str(experts / name) for number, name in enumerate(names)}
    width = model.get_input_embeddings().embedding_dim
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=width, xlora_depth=1, adapters=adapters)
    torch.manual_seed(0)
    return get_peft_model(model, config)


def load_xlora(model, experts: Path, folder: Path) -> PeftModel:
    """`model` with experts and the trained classifier in `folder`. Raises InputError where there is none."""
    mixed = put_xlora(model, experts)
    try:
        state = load_file(folder / CLASSIFIER)
        _classifier(mixed).load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder}: no X-LoRA for these experts; give what `slidekick train xlora` wrote") from error
    return mixed.eval()


def _classifier(model: PeftModel) -> torch.nn.Module:
    return model.base_model.internal_xlora_classifier


class UncachedEngine(TorchEngine):
    """TorchEngine for models whose keys and values cannot be kept: given options run whole, prompt and all."""

    def options(
        self, messages: Sequence[dict], image: np.ndarray, tools: Sequence[dict], options: Sequence[str]
    ) -> np.ndarray:
        """See `TorchEngine.options`."""
        texts = token_ids(self._ids, options)
        with self._busy, torch.inference_mode():
            inputs = self.encode(messages, image, tools)
            prompt, pixels = inputs["input_ids"][0], inputs["pixel_values"]
            rows = pad_sequence([torch.cat([prompt, torch.tensor(text)]) for text in texts], batch_first=True)
            logits = self.model(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),  # what pads a text stands behind it
                pixel_values=pixels.repeat(len(rows), *[1] * (pixels.ndim - 1)),
                logits_to_keep=rows.shape[1] - len(prompt) + 1,
                use_cache=False,
            ).logits
            logs = logits.double().log_softmax(-1)
            said = [logs[i, range(len(text)), text].sum() for i, text in enumerate(texts)]
            ended = [logs[i, len(text), list(self.end_tokens)].max() for i, text in enumerate(texts)]
            return (torch.stack(said) + torch.stack(ended)).numpy()
