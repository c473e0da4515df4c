"""Models of the hub: their processor tells them of tools, whatever their own template does with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, make_tiny, tiny_qwen25

from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.hub import Base, chat_template, load_hub, renders_tools, tell_tools
from slidekick.copilot.mini import load_generalist
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError, ShortError, first_line

QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many nuclei?"}]}
CALL = {"type": "function", "function": {"name": "count", "arguments": {"concept": "nucleus"}}}
ASKED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "count", "content": '{"found": true, "count": 212}'}
SAID = {"role": "assistant", "content": [{"type": "text", "text": "There are 212 nuclei."}]}
LLAVA = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for part in m.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{{ '|' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen25()


def rendered(processor, messages, **options) -> str:
    return processor.apply_chat_template(messages, tools=list(tool_schemas()), tokenize=False, **options)


def test_a_template_that_drops_tools_is_told_from_one_that_writes_them():
    own = tiny_qwen25()[1]
    assert not renders_tools(own, chat_template(own))
    assert "measure" not in rendered(own, [QUESTION])
    assert "nucleus" not in rendered(own, [QUESTION, ASKED, RESULT])
    for kind in KINDS:
        processor = make_tiny(kind)[1]
        before = chat_template(processor)
        assert renders_tools(processor, before)
        assert chat_template(tell_tools(processor)) == before


def test_qwen_is_told_of_tools_as_its_language_model_was(qwen):
    from trl.chat_template_utils import qwen2_5_chat_template

    processor = tell_tools(qwen[1])
    plain = {**QUESTION, "content": "How many nuclei?"}
    messages = [{"role": "system", "content": "You are a helpful assistant."}, plain, ASKED, RESULT]
    own = processor.tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": "There are 212 nuclei."}],
        chat_template=qwen2_5_chat_template,
        tools=list(tool_schemas()),
        tokenize=False,
    )
    shown = rendered(processor, [QUESTION, ASKED, RESULT, SAID])
    assert shown.replace("<|vision_start|><|image_pad|><|vision_end|>", "") == own


def test_telling_twice_is_telling_once(qwen):
    once = chat_template(tell_tools(qwen[1]))
    assert chat_template(tell_tools(qwen[1])) == once


def test_a_system_message_stays_first_and_the_tools_follow_it(qwen):
    for content in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        text = rendered(tell_tools(qwen[1]), [{"role": "system", "content": content}, QUESTION])
        assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
        assert text.count("Be brief.") == text.count("# Tools") == text.count("<|im_start|>system") == 1


def test_without_tools_the_models_own_template_speaks(qwen):
    processor = tell_tools(qwen[1])
    own = processor.apply_chat_template([QUESTION, SAID], chat_template=tiny_qwen25()[1].chat_template)
    assert processor.apply_chat_template([QUESTION, SAID]) == own


def test_templates_that_read_lists_of_parts_alone_are_served_too(qwen):
    processor = tiny_qwen25()[1]
    processor.chat_template = LLAVA
    text = rendered(tell_tools(processor), [QUESTION, ASKED, RESULT, SAID])
    call = ToolCall("count", {"concept": "nucleus"}).to_text()
    assert f"|ASSISTANT: {call}|USER: <tool_response>\n{RESULT['content']}\n</tool_response>|" in text
    assert text.index("# Tools") < text.index("<image>")


@pytest.mark.parametrize("name", ["llava_next", "smolvlm", "idefics3", "gemma3", "qwen3_vl", "qwen3_6", "gemma4"])
def test_published_templates_write_calls_as_the_grammar_does_whatever_they_did_before(name):
    import trl

    processor = tiny_qwen25()[1]
    processor.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    text = rendered(tell_tools(processor), [{**QUESTION}, {**ASKED, "content": []}, RESULT, SAID])
    assert ToolCall("count", {"concept": "nucleus"}).to_text() in text
    assert RESULT["content"] in text
    assert text.index('"description"') < text.index("How many nuclei?") < text.index("There are 212 nuclei.")


@settings(max_examples=30, deadline=None)
@given(concept=st.text(min_size=1, max_size=20), result=st.text(max_size=20))
def test_what_tools_are_given_and_return_is_data_whatever_it_holds(qwen, concept, result):
    processor = tell_tools(qwen[1])
    call = {"type": "function", "function": {"name": "count", "arguments": {"concept": concept}}}
    messages = [QUESTION, {**ASKED, "tool_calls": [call]}, {**RESULT, "content": result}]
    text = rendered(processor, messages)
    body = text.rpartition("<|im_start|>assistant\n<tool_call>\n")[2].partition("\n</tool_call><|im_end|>")[0]
    assert json.loads(body)["arguments"]["concept"] == concept
    assert f"<tool_response>\n{result}\n</tool_response>" in text


def test_call_marks_typed_by_people_stay_letters_and_the_templates_own_are_tokens(qwen):
    engine = TorchEngine(qwen[0], tell_tools(qwen[1]))
    mark = engine.processor.tokenizer.convert_tokens_to_ids("<tool_call>")

    def marks(question: str, result: str = "{}") -> int:
        asked = {**QUESTION, "content": [{"type": "image"}, {"type": "text", "text": question}]}
        messages = [asked, ASKED, {**RESULT, "content": result}]
        return (
            engine.encode(messages, np.zeros((40, 40, 3), np.uint8), tool_schemas())["input_ids"][0]
            .tolist()
            .count(mark)
        )

    assert marks("why?") > 0
    assert marks("<tool_call>") == marks("why?", "<tool_call>") == marks("why?")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({}, "base.name is missing"),
        ({"name": 3}, "base.name is 3, not text"),
        ({"name": "x", "quantization": "int8"}, "base.quantization is 'int8'; there is nf4, or none"),
        ({"name": "x", "dtype": "fp16"}, "base.dtype is 'fp16'; there are auto, float32, float16, bfloat16"),
        ({"name": "x", "trust": True}, "base has no key 'trust'"),
        ({"name": "x", "processor": 7}, "base.processor is 7, not a mapping"),
        ({"name": "x", "unquantized": "visual"}, "base.unquantized is 'visual', not a list"),
    ],
)
def test_a_base_that_cannot_be_meant_is_named_with_file_key_and_value(section, told):
    with pytest.raises(InputError, match=told) as caught:
        Base.read(section, Path("run.yaml"))
    assert str(caught.value).startswith("run.yaml: ")


def test_a_base_is_read_with_its_defaults():
    base = Base.read({"name": "a/b", "revision": None, "processor": {"size": 9}}, Path("run.yaml"))
    assert base == Base("a/b", processor={"size": 9})


def test_options_reach_the_processor_and_a_loaded_model_knows_tools(qwen, tmp_path):
    qwen[0].save_pretrained(tmp_path)
    tiny_qwen25()[1].save_pretrained(tmp_path)
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 2}
    _, processor = load_hub(Base(str(tmp_path), processor={"size": size}))
    assert dict(processor.image_processor.size) == size
    pixels = processor.image_processor(np.zeros((300, 300, 3), np.uint8), return_tensors="np")["pixel_values"]
    assert len(pixels) <= 2 * 4  # patches: four of 14 x 14 px are a token
    assert "# Tools" in rendered(load_generalist(str(tmp_path))[1], [QUESTION])


def test_a_model_that_answers_is_put_where_over_gpus_says(qwen, tmp_path, monkeypatch):
    import slidekick.copilot.hub
    from slidekick.copilot.engines import load_engine

    qwen[0].save_pretrained(tmp_path)
    tiny_qwen25()[1].save_pretrained(tmp_path)
    monkeypatch.setattr(slidekick.copilot.hub, "over_gpus", lambda: {"device_map": {"": "meta"}})
    assert load_engine(str(tmp_path), {}).model.device.type == "meta"
    monkeypatch.undo()
    placed = slidekick.copilot.hub.over_gpus()
    assert placed == ({"device_map": "auto"} if torch.cuda.is_available() else {})


@pytest.mark.parametrize("name", ["/no/such/folder", "."])
def test_a_name_without_a_model_is_one_line_that_names_it(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no image-text-to-text model could be loaded") as caught:
        load_hub(Base(name))
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_an_adapter_that_cannot_be_read_is_one_line_that_names_it(qwen, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    qwen[0].save_pretrained(base)
    tiny_qwen25()[1].save_pretrained(base)
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "target_modules": ["q_proj"]}
    for text in ("{", json.dumps(config)):
        (folder / "adapter_config.json").write_text(text)
        (folder / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
        with pytest.raises(InputError) as caught:
            load_generalist(str(folder))
        assert str(caught.value).startswith(f"{folder}: ")
        assert "\n" not in str(caught.value)


def test_an_error_is_told_by_its_first_line_and_one_without_words_by_its_kind():
    assert first_line(ValueError("\n no such\nlayer")) == "no such"
    assert first_line(ValueError("x" * 999), 9) == "x" * 9
    assert first_line(MemoryError()) == "MemoryError"


def test_a_model_that_does_not_fit_is_told_before_it_is_read(qwen, tmp_path, monkeypatch):
    from slidekick.data import memory

    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    qwen[0].save_pretrained(tmp_path)
    with pytest.raises(ShortError, match=r"needs 0.0 GB of memory, and 0.0 GB are free; close other programs, or take"):
        load_hub(Base(str(tmp_path)))
