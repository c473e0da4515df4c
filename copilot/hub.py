"""Models of the Hugging Face hub: the base of a run, an adapter trained on it, and tools for templates without them.

Training and inference load through here, so that a model is told of its tools in the same tokens both times. Code that
comes with a model is never run. What mini is stands in mini.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from slidekick.copilot.grammar import ToolCall
from slidekick.data.errors import InputError, first_line
from slidekick.data.memory import require

ADAPTER_CONFIG = "adapter_config.json"
DTYPES = ("auto", "float32", "float16", "bfloat16")  # as torch names them
_KINDS = {"processor": (Mapping, "a mapping"), "unquantized": (list, "a list")}
_TOOLS = Path(__file__).parent / "templates" / "tools.jinja"


@dataclass(frozen=True)
class Base:
    """Which model, and how it is loaded.

    name: hub id or folder. revision: branch, tag or commit. quantization: "nf4", for QLoRA. unquantized: names or
    patterns of modules that it leaves as they are. dtype, attn_implementation: as `from_pretrained` takes them.
    processor: options of the processor, such as the `size` of pictures.
    """

    name: str
    revision: str | None = None
    quantization: str | None = None
    unquantized: Sequence[str] | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    processor: Mapping = field(default_factory=dict)

    @classmethod
    def read(cls, section: Mapping, where: Path) -> Base:
        """The section `base` of a configuration, checked. Raises InputError that names file, key and value."""
        known = {one.name for one in fields(cls)}
        for key, value in section.items():
            if key not in known:
                raise InputError(f"{where}: base has no key {key!r}; there are {', '.join(sorted(known))}")
            kind, told = _KINDS.get(key, (str, "text"))
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{where}: base.{key} is {value!r}, not {told}")
        if not section.get("name"):
            raise InputError(f"{where}: base.name is missing; give a hub id, such as Qwen/Qwen2.5-VL-3B-Instruct")
        base = cls(**{key: value for key, value in section.items() if value is not None})
        if base.quantization not in (None, "nf4"):
            raise InputError(f"{where}: base.quantization is {base.quantization!r}; there is nf4, or none")
        if base.dtype not in DTYPES:
            raise InputError(f"{where}: base.dtype is {base.dtype!r}; there are {', '.join(DTYPES)}")
        return base


def load_hub(base: Base, **placement):
    """(model, processor) of an image-text-to-text model; the processor's chat template knows tools.

    placement: further options of `from_pretrained`, such as device_map. Raises InputError where there is no such model,
    or bitsandbytes is wanted and missing, ShortError where its weights do not fit into memory.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()  # of weights that lie here; what is fetched shows its own
    options = {"attn_implementation": base.attn_implementation, "quantization_config": _quantization(base)}
    options = placement | {key: value for key, value in options.items() if value is not None}
    try:
        if not placement and base.quantization is None:
            config = AutoConfig.from_pretrained(base.name, revision=base.revision or "main")
            require(_weight_bytes(config, base.dtype), base.name, "close other programs, or take a smaller model")
        model = AutoModelForImageTextToText.from_pretrained(
            base.name, revision=base.revision or "main", dtype=base.dtype, **options
        )
        processor = AutoProcessor.from_pretrained(base.name, revision=base.revision or "main", **base.processor)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = first_line(error, 200)
        raise InputError(
            f"{base.name}: no image-text-to-text model could be loaded ({reason}); give mini, a folder or a hub id"
        ) from error
    return model.eval(), tell_tools(processor)


def over_gpus() -> dict:
    """Where `from_pretrained` puts a model that answers: on the GPUs, with what they do not hold on the CPU; on the CPU
    where there is none."""
    import torch

    return {"device_map": "auto"} if torch.cuda.is_available() else {}


def load_adapter(folder: Path, **placement):
    """(model, processor) of a PEFT adapter over a hub model, merged into its base; the processor is the adapter's own.

    placement: as for `load_hub`. The base is loaded in its own number format, also where the adapter was trained
    over a quantised one. Raises InputError where the base cannot be loaded or does not fit.
    """
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError
    from transformers import AutoProcessor

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder}: no adapter ({first_line(error, 200)}); give what `train sft` wrote") from error
    model, processor = load_hub(Base(config.base_model_name_or_path or str(folder), config.revision), **placement)
    try:
        if (folder / "processor_config.json").is_file():
            processor = tell_tools(AutoProcessor.from_pretrained(folder))
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = first_line(error, 200)
        raise InputError(f"{folder}: the adapter does not fit {config.base_model_name_or_path} ({reason})") from error
    return merged.eval(), processor


def tell_tools(processor):
    """The processor, its chat template preceded by one that writes tools as text where its own does not serve.

    Those of Qwen2.5-VL, LLaVA-NeXT, SmolVLM and Gemma 3 drop tools, calls or results, some of them without a word;
    Qwen3.5's writes calls in another form than the grammar, which decodes them as `<tool_call>` JSON.
    """
    template = chat_template(processor)
    if template is not None and not renders_tools(processor, template):
        processor.chat_template = _TOOLS.read_text(encoding="utf-8") + template
    return processor


def chat_template(processor) -> str | None:
    """The template that the processor renders with; None where there is none."""
    tokenizer = getattr(processor, "tokenizer", None)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def renders_tools(processor, template: str) -> bool:
    """Whether a template writes tools, a call as the grammar does, and a result."""
    from jinja2 import TemplateError

    schema = {"name": "probe_tool", "description": "", "parameters": {"type": "object", "properties": {}}}
    said = ToolCall("probe_call", {"word": "probe_argument"})
    call = {"type": "function", "function": {"name": said.name, "arguments": said.arguments}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [], "tool_calls": [call]},
        {"role": "tool", "name": "probe_call", "content": [{"type": "text", "text": "probe_result"}]},
    ]
    try:
        text = processor.apply_chat_template(
            messages, chat_template=template, tools=[{"type": "function", "function": schema}], tokenize=False
        )
    except (TemplateError, TypeError):
        return False
    return all(word in text for word in ("probe_tool", said.to_text(), "probe_result"))


def _weight_bytes(config, dtype: str) -> int:
    """What a model's weights will take, told before they are fetched or read."""
    import torch
    from transformers import AutoModelForImageTextToText

    options = {} if dtype == "auto" else {"dtype": getattr(torch, dtype)}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, **options)
    return sum(one.numel() * one.element_size() for one in model.parameters())


def _quantization(base: Base):
    """4-bit normal floats with the scales quantised too and bfloat16 sums: QLoRA (Dettmers et al. 2023)."""
    if base.quantization is None:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=None if base.unquantized is None else list(base.unquantized),
        bnb_4bit_quant_type=base.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,  # so that FSDP can shard the packed weights with the rest
    )
