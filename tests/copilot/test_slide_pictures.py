"""A slide shown to models without slide tokens: its thumbnail and places at full size as pictures of one prompt."""

import numpy as np
import pytest
import torch
from scripted import ScriptedEngine, call
from slide_files import write_pyramid
from tiny_models import make_tiny

from slidekick.copilot import Copilot
from slidekick.copilot.messages import user_message
from slidekick.copilot.pictures import ALONE, MOST_PICTURES, Pictures, PicturesRefused, SlidePicture, takes_several
from slidekick.copilot.slide_tools import PLACE_UM, PLACES, SlideToolbox
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.slide import Region, open_slide

ONE_PICTURE = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is not string %}{% if m.content[0].type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% endif %}{{ m.content[-1].text }}{% endif %}<|im_end|>
{% endfor %}"""


@pytest.fixture(scope="module")
def qwen():
    return make_tiny("Qwen's kind")


class Plain(ScriptedEngine):
    """Takes as many pictures as it says and reads no slides."""

    reads_slides = False

    def __init__(self, *lines, pictures=MOST_PICTURES):
        super().__init__(*lines)
        self.pictures = pictures


class Refusing(Plain):
    """Says only once it is asked that it takes one picture."""

    def turn(self, messages, image, tools, *, calls=True):
        if isinstance(image, Pictures) and len(image.pixels) > 1:
            self.pictures = 1
            raise PicturesRefused("http://host: 400")
        yield from super().turn(messages, image, tools, calls=calls)


def test_places_are_the_surest_of_the_tissue_that_the_question_names(survey, segmentor):
    shown = SlideToolbox(segmentor, survey).pictures("Is the tumour well differentiated?", MOST_PICTURES)
    assert len(shown.pixels) == MOST_PICTURES
    assert np.array_equal(shown.pixels[0], survey.thumbnail.pixels)
    for pixels, (x, y, width, height) in zip(shown.pixels[1:], shown.places, strict=True):
        assert width == height == round(PLACE_UM / 0.5) == len(pixels)
        assert x + width / 2 < 1400
        assert np.array_equal(pixels, survey.slide.roi(Region(x, y, width, height, 0.5)).pixels)


@pytest.mark.parametrize("question", ["What is shown?", "Is there stroma?"])
def test_places_are_spread_where_no_tissue_is_named_or_none_of_it_is_there(survey, segmentor, question):
    places = SlideToolbox(segmentor, survey).pictures(question, MOST_PICTURES).places
    middles = np.array([(x + width / 2, y + height / 2) for x, y, width, height in places])
    assert len(set(places)) == MOST_PICTURES - 1
    assert middles[:, 0].max() - middles[:, 0].min() > 2000


def test_each_line_tells_which_picture_shows_what(survey, segmentor):
    shown = SlideToolbox(segmentor, survey).pictures("What is shown?", 3)
    x, y, _, _ = shown.places[0]
    assert shown.captions[0] == "Picture 1: the whole slide, 1.8 × 1.3 mm."
    assert shown.captions[1] == f"Picture 2: a place of 448 µm, in the centre of picture 1, at x {x}, y {y}."
    assert len(shown.captions) == len(shown.pixels) == 3


def test_a_model_is_shown_thumbnail_and_places_and_the_answer_lists_them(survey, segmentor):
    engine = Plain("Adenocarcinoma.")
    answer = Copilot(engine, segmentor).ask(survey, "What tumour is it?")
    (asked,) = engine.asked
    parts = asked["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image"] * MOST_PICTURES + ["text"]
    assert parts[-1]["text"].strip() == "What tumour is it?"
    assert answer.looked == asked["image"].places
    assert len(answer.looked) == MOST_PICTURES - 1
    assert ALONE not in answer.warnings


def test_places_of_tools_stand_beside_those_shown_each_once(survey, segmentor):
    engine = Plain(call("count", "nucleus"), "Many.")
    answer = Copilot(engine, segmentor).ask(survey, "How many nuclei are there?")
    shown = engine.asked[0]["image"].places
    assert answer.looked[: len(shown)] == shown
    assert len(set(answer.looked)) == len(answer.looked) == PLACES


def test_earlier_questions_come_behind_the_pictures(survey, segmentor):
    engine = Plain("Adenocarcinoma.", "Yes, surely.")
    copilot = Copilot(engine, segmentor)
    first = copilot.ask(survey, "What tumour is it?")
    copilot.ask(survey, "Are you sure?", [first])
    kinds = [[part["type"] for part in one["content"]] for one in engine.asked[1]["messages"]]
    assert kinds == [["text", "image"] * MOST_PICTURES + ["text"], ["text"], ["text"]]


def test_a_model_that_takes_one_picture_gets_the_thumbnail_with_a_warning(survey, segmentor):
    for engine in (Plain("Tumour.", pictures=1), Refusing("Tumour.")):
        answer = Copilot(engine, segmentor).ask(survey, "What is shown?")
        (asked,) = engine.asked
        assert [part["type"] for part in asked["messages"][0]["content"]] == ["image", "text"]
        assert np.array_equal(asked["image"].pixels[0], survey.thumbnail.pixels)
        assert answer.looked == ()
        assert answer.warnings.count(ALONE) == 1


def test_a_slide_without_tissue_is_its_thumbnail(tmp_path, reader, segmentor):
    blank = np.full((2100, 2100, 3), 243, np.uint8)
    with open_slide(write_pyramid(tmp_path / "blank.tif", blank, 2, 0.5)) as opened:
        engine = Plain("Nothing.")
        answer = Copilot(engine, segmentor).ask(reader.survey(opened, keep=False), "What is shown?")
    assert len(engine.asked[0]["image"].pixels) == 1
    assert answer.looked == ()
    assert ALONE not in answer.warnings


def test_a_model_of_the_hub_sees_every_picture(survey, segmentor, qwen):
    engine = TorchEngine(*qwen, name="tiny", max_new_tokens=6)
    assert engine.pictures == MOST_PICTURES
    answer = Copilot(engine, segmentor).ask(survey, "What tumour is it?")
    assert len(answer.looked) == MOST_PICTURES - 1
    shown = SlideToolbox(segmentor, survey).pictures("What tumour is it?", MOST_PICTURES)
    message = asked_with("What tumour is it?", shown.captions)
    together = engine.encode([message], shown, ())
    alone = [engine.encode([asked_with("?", ())], pixels, ()) for pixels in shown.pixels]
    assert torch.equal(together["pixel_values"], torch.cat([one["pixel_values"] for one in alone]))
    assert len(together["image_grid_thw"]) == MOST_PICTURES
    text = engine.processor.tokenizer.decode(together["input_ids"][0])
    assert [text.index(line) for line in shown.captions] == sorted(text.index(line) for line in shown.captions)


def asked_with(question, captions):
    return user_message(question, with_image=True, captions=captions)


def test_whether_a_processor_takes_several_pictures_is_tried(qwen):
    model, processor = make_tiny("Qwen's kind")
    assert takes_several(processor)
    processor.chat_template = ONE_PICTURE
    assert not takes_several(processor)
    assert TorchEngine(model, processor).pictures == 1

    class Strict:
        def apply_chat_template(self, messages, **_):
            if sum(part["type"] == "image" for part in messages[0]["content"]) > 1:
                raise ValueError("one image")
            return {"input_ids": torch.zeros(1, 4)}

    assert not takes_several(Strict())


def test_a_model_that_reads_slides_is_shown_tokens_and_nothing_else(survey, segmentor):
    model, processor = make_tiny("mini's kind")
    engine = TorchEngine(model, processor, max_new_tokens=6, reads_slides=True)
    seen = []
    engine.encode = lambda messages, image, tools: (
        seen.append((messages, image)) or TorchEngine.encode(engine, messages, image, tools)
    )
    answer = Copilot(engine, segmentor).ask(survey, "What tumour is it?")
    for messages, image in seen:
        assert messages[0] == {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "What tumour is it?"}],
        }
        assert isinstance(image, SlidePicture)
        assert torch.equal(image.tokens, survey.tokens)
    assert seen
    assert ALONE not in answer.warnings
    shown = SlidePicture(survey.thumbnail.pixels, survey.tokens)
    ids = [TorchEngine.encode(engine, seen[0][0], one, ())["input_ids"] for one in (shown, survey.thumbnail.pixels)]
    assert torch.equal(*ids), "the tokens take a picture's place, and the prompt is else the same"
