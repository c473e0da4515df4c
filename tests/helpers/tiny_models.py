"""Vision-language models in small: random numbers, real templates, tokenizers of a few hundred words."""

SENTENCES = (
    'system user assistant tool Tools: segment(concept) count(concept) measure(concept) {"name": "arguments": '
    "There are 212 nuclei. Yes: gland was found, in the upper left, covering 31% of the picture. concept"
)


def make_tokenizer(marks: str):
    """Byte-level BPE over a few sentences. marks: "text" (SmolLM2's way), "added" or "special" (one token)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SENTENCES] * 4, trainer)
    if marks != "text":
        special = marks == "special"
        tokenizer.add_tokens([AddedToken(m, special=special) for m in ("<tool_call>", "</tool_call>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


QWEN_TEMPLATE = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'image' %}\
<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}\
{% for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


KINDS = ["mini's kind", "Qwen's kind"]


def make_tiny(kind: str):
    made = tiny_fastvlm() if kind == "mini's kind" else tiny_qwen()
    made[0].generation_config.eos_token_id = made[1].tokenizer.eos_token_id
    return made


def tiny_fastvlm():
    import torch
    from transformers import FastVlmForConditionalGeneration

    from slidekick.copilot.base import make_processor

    processor = make_processor(make_tokenizer("text"))
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "test_resnet",
        "num_labels": 0,
        "hidden_size": 96,
        "do_pooling": False,
        "model_args": {"global_pool": ""},
    }
    torch.manual_seed(3)
    width = len(processor.tokenizer) + 7  # wider than the tokenizer, as real models' heads often are
    config = tiny_config(processor, vision, width)
    return FastVlmForConditionalGeneration(config).eval(), processor


def tiny_config(processor, vision, words: int):
    """Of mini's kind: a tower, and a language model of two thin layers over so many words."""
    from transformers import FastVlmConfig, LlamaConfig

    from slidekick.copilot.base import IMAGE_SIDE, IMAGE_TOKEN, PATCH

    text = LlamaConfig(
        vocab_size=words,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
    )
    return FastVlmConfig(
        vision_config=vision,
        text_config=text.to_dict(),
        image_token_index=processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )


def tiny_qwen():
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    processor, tokens, text = _qwen_parts(QWEN_TEMPLATE)
    torch.manual_seed(3)
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
    return Qwen2VLForConditionalGeneration(config).eval(), processor


def tiny_qwen25():
    """Qwen2.5-VL with its own chat template, which knows no tools; trl holds a copy, byte for byte."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    processor, tokens, text = _qwen_parts(qwen2_5_vl_chat_template)
    torch.manual_seed(3)
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 56}, **tokens
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model, processor


def _qwen_parts(template: str):
    """(processor, token ids of the configuration, text configuration) that the two Qwens share."""
    from transformers import Qwen2VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = make_tokenizer("added")
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=template,
    )
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    text = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    }
    tokens = {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start}
    return processor, {**tokens, "vision_end_token_id": end, **ends}, {**text, **ends}
