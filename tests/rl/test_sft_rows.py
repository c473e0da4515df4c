"""Conversations as token rows, batches with any number of pictures, and the loss over them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.rl.instructions import make_instructions
from slidekick.rl.instructions.turns import conversation, said
from slidekick.rl.sft import IMAGE_TOKENS, CachedVisionCollator, CachedVisionTrainer, Maps, encode, token_rows

LORA = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ".*language_model.*\\.(q_proj|v_proj|down_proj)",
    "modules_to_save": ["multi_modal_projector"],
}


@pytest.fixture
def tools() -> list[dict]:
    return list(tool_schemas())


@pytest.fixture
def made(items) -> list:
    """Conversations that show no, one and two pictures, about the labelled pictures."""
    pictures = [item.image for item in items[:2]]
    bare = conversation("vqa", "words", [], said("What causes swelling?", "oedema"))
    two = conversation("compare", "glas", pictures, said("Are these two the same?", "no"))
    return [bare, two, *make_instructions(items, 6, seed=5)]


@pytest.fixture
def rows(made, processor, tools) -> list[dict]:
    """Encoded conversations of every kind, each with a row of maps for every picture."""
    picks = iter([2, 0, 1, 1, 2, 0, 2, 1, 0, 0, 1, 2])
    return [encode(one, processor, tools) | {"map_rows": [next(picks) for _ in one.images]} for one in made]


def spans(labels: list[int], ids: list[int]) -> list[list[int]]:
    """Runs of token ids that the loss counts."""
    found, run = [], []
    for label, token in zip([*labels, -100], [*ids, None], strict=True):
        if label != -100:
            assert label == token
            run.append(token)
        elif run:
            found.append(run)
            run = []
    return found


def spoken(message: dict) -> str:
    """What an assistant turn says, as it is decoded."""
    if calls := message.get("tool_calls"):
        function = calls[0]["function"]
        return f"<tool_call>\n{json.dumps(function)}\n</tool_call><|im_end|>"
    return message["content"][0]["text"] + "<|im_end|>"


def test_the_loss_counts_what_the_assistant_says_and_nothing_else(items, made, processor, tools):
    for one in (*made, *make_instructions(items, 200, seed=4)):
        row = encode(one, processor, tools)
        turns = [message for message in one.messages if message["role"] == "assistant"]
        texts = [processor.tokenizer.decode(run) for run in spans(row["labels"], row["input_ids"])]
        assert texts == [spoken(turn) for turn in turns]


def test_every_picture_takes_as_many_tokens_as_the_map_has_cells(made, processor, tools):
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    for one in made:
        ids = np.array(encode(one, processor, tools)["input_ids"])
        (where,) = np.nonzero(ids == image)
        assert len(where) == IMAGE_TOKENS * len(one.images)
        assert IMAGE_TOKENS == 36
        if one.images:  # side by side, before the question
            assert where[-1] - where[0] == len(where) - 1
    assert {len(one.images) for one in made} == {0, 1, 2}


def test_what_is_trained_on_is_what_the_engine_will_send(items, processor, tools, make_model):
    engine, seen = TorchEngine(make_model(), processor), 0
    for one in make_instructions(items, 24, seed=9):
        if len(one.images) == 1:  # the engine answers about one picture
            row = encode(one, processor, tools)
            pixels = np.array(Image.open(one.images[0]))
            for turn, message in enumerate(one.messages):
                if message["role"] == "assistant":
                    prompt = engine.encode(one.messages[:turn], pixels, tools)["input_ids"][0].tolist()
                    assert row["input_ids"][: len(prompt)] == prompt
                    assert row["labels"][len(prompt)] != -100
                    seen += 1
    assert seen > 24


def test_every_picture_of_a_conversation_gets_a_view_of_its_own(items, made, processor):
    maps = Maps(np.zeros((len(items) * 3, 36, 2)), items, views=3)
    rows = token_rows(made, processor, maps, seed=1)
    assert [len(row["map_rows"]) for row in rows] == [len(one.images) for one in made]
    for row, one in zip(rows, made, strict=True):
        assert row["length"] == len(row["input_ids"])
        for map_row, image in zip(row["map_rows"], one.images, strict=True):
            assert map_row in {maps.row(image, pick) for pick in range(3)}
    assert token_rows(made, processor, maps, seed=1) == rows


def test_batches_are_padded_on_the_left_to_a_few_lengths(rows):
    maps = np.arange(3 * 36 * 2, dtype=np.float16).reshape(3, 36, 2)
    batch = CachedVisionCollator(maps, pad=2)(rows)
    longest = batch["input_ids"].shape[1]
    assert longest % 8 == 0
    assert longest - max(len(row["input_ids"]) for row in rows) < 8
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        assert batch["input_ids"][i].tolist() == [2] * (longest - length) + row["input_ids"]
        assert batch["labels"][i].tolist() == [-100] * (longest - length) + row["labels"]
        assert batch["attention_mask"][i].tolist() == [0] * (longest - length) + [1] * length
    wanted = [map_row for row in rows for map_row in row["map_rows"]]
    assert {len(row["map_rows"]) for row in rows} == {0, 1, 2}
    np.testing.assert_array_equal(batch["maps"], maps[wanted].astype(np.float32))
    assert batch["maps"].dtype == torch.float32
    assert CachedVisionCollator(maps, pad=2)(rows[:1])["maps"].shape == (0, 36, 2)


@pytest.mark.parametrize("counted", [None, 50])
@pytest.mark.parametrize("number", [8, 1])  # all rows; the one without a picture
def test_the_short_loss_is_the_plain_loss_over_all_positions(rows, make_model, counted, number):
    torch.manual_seed(0)
    model = get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM", **LORA))
    maps = np.random.default_rng(0).normal(size=(3, 36, 1280)).astype(np.float16)
    batch = CachedVisionCollator(maps, pad=2)(rows[:number])
    tokens = model.get_base_model().model.multi_modal_projector(batch["maps"])
    plain = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens)},
    ).logits
    wanted = F.cross_entropy(plain[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    wanted = wanted / (counted or int((batch["labels"] != -100).sum()))
    trainer = SimpleNamespace(accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped))
    loss, outputs = CachedVisionTrainer.compute_loss(
        trainer, model, dict(batch), return_outputs=True, num_items_in_batch=counted
    )
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    assert len(outputs.logits) == int((batch["labels"] != -100).sum()), "nothing else is projected"
    loss.backward()
    projector = model.get_base_model().model.multi_modal_projector
    learns = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in projector.parameters()]
    assert any(learns) == (number > 1)


def test_each_picture_of_two_is_put_into_its_own_place(rows, make_model):
    model, maps = make_model(), np.random.default_rng(0).normal(size=(3, 36, 1280)).astype(np.float16)

    def logits(map_rows: list[int]) -> torch.Tensor:
        batch = CachedVisionCollator(maps, pad=2)([rows[0], rows[1] | {"map_rows": map_rows}])
        tokens = model.model.multi_modal_projector(batch["maps"])
        seen = {"image": BaseModelOutputWithPooling(pooler_output=tokens)}
        with torch.inference_mode():
            return model(batch["input_ids"], attention_mask=batch["attention_mask"], mm_encoder_outputs=seen).logits

    plain, swapped = logits([0, 1]), logits([1, 0])
    torch.testing.assert_close(plain[0], swapped[0])  # the row without a picture sees neither
    assert not torch.allclose(plain[1], swapped[1], atol=1e-4)
