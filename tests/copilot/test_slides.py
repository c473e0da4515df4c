"""Whole slides: two painted tissues surveyed, structures looked for in places, answers that tell which is which."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_slides import FAT, PLAN, TUMOUR, ColourTower, taught_encoder
from scripted import call
from slide_files import write_pyramid

from slidekick.copilot import Answer, Copilot
from slidekick.copilot.answer import Step
from slidekick.copilot.case import ask_case
from slidekick.copilot.copilot import short_answer
from slidekick.copilot.engine import SLIDE
from slidekick.copilot.experts import ExpertPlan, Experts
from slidekick.copilot.pictures import SlidePicture
from slidekick.copilot.reports.pages import to_html
from slidekick.copilot.reports.report import draft_report
from slidekick.copilot.slide_encoder import SIDE, SlideEncoder, load_slide_encoder
from slidekick.copilot.slide_reader import SlideReader
from slidekick.copilot.slide_tiles import TileTower, slide_tiles
from slidekick.copilot.slide_tools import CLOSED, PLACE_UM, PLACES, STRANGE, SlideToolbox, mentioned
from slidekick.copilot.survey import APART, meant
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.data.layout import OTHER
from slidekick.data.slide import Region, open_slide


def test_a_tissue_has_its_share_and_its_place(survey):
    found = survey.find(TUMOUR, (TUMOUR,))
    assert found.found
    assert found.mask.sum() / found.within.sum() == pytest.approx(1 / 3, abs=0.06)
    columns = np.nonzero(found.mask.any(0))[0]
    assert columns.max() < 0.45 * found.mask.shape[1]
    heat = survey.draw(survey.likely((TUMOUR,)))
    assert heat[found.mask].mean() > 0.9


def test_an_absent_tissue_is_an_empty_mask(survey):
    found = survey.find("stroma", ("stroma",))
    assert not found.found
    assert found.presence < 0.5
    assert found.mask.sum() == 0


@pytest.mark.parametrize(
    ("words", "tissues"),
    [
        ("Lung adenocarcinoma", (TUMOUR,)),
        ("cancer", (TUMOUR,)),
        ("fat", (FAT,)),
        ("nucleus", ()),
        ("unicorn", ()),
    ],
)
def test_words_mean_a_tissue_or_all_that_are_a_case_of_it(survey, words, tissues):
    assert meant(words, survey.encoder) == tissues


def test_an_answer_tells_shares_of_the_tissue_and_follows_the_schema(survey, segmentor, scripted):
    answer = Copilot(scripted(call("measure", "tumour"), "It covers 90% of the picture."), segmentor).ask(
        survey, "How much tumour is there?"
    )
    share = next(item for item in answer.evidence if item.kind == "area_fraction").value
    assert answer.text == f"Tumour covers {round(100 * share)}% of the tissue."
    assert share == pytest.approx(1 / 3, abs=0.06)
    assert answer.warnings == (CLOSED.format(3),)


@pytest.mark.parametrize(("odds", "settled"), [((0.0, 0.0, 1.0), FAT), ((9.0, 0.0, 0.0), TUMOUR)])
def test_a_tissue_that_is_read_is_weighed_with_what_the_survey_saw(survey, segmentor, scripted, odds, settled):
    engine = scripted("stroma")  # which is not there
    engine.options = lambda messages, image, tools, options: np.array(
        [odds[(TUMOUR, FAT, "stroma").index(one)] for one in options]
    )
    answer = Copilot(engine, segmentor).ask(survey, "What does this slide mostly show?")
    assert answer.text == settled
    assert answer.options.keys() == {TUMOUR, FAT, "stroma"}
    assert sum(answer.options.values()) == pytest.approx(1, abs=1e-3)
    assert answer.options["stroma"] < 0.05


def test_an_organ_that_is_read_is_weighed_with_those_of_the_tissues(survey, segmentor, scripted):
    engine = scripted("heart", "lung")  # of the first no tissue was taught here
    engine.options = lambda messages, image, tools, options: np.zeros(len(options))
    assert Copilot(engine, segmentor).ask(survey, "Which organ is it?").text == "heart"
    answer = Copilot(engine, segmentor).ask(survey, "Which organ is it?")
    assert answer.text == "colon"  # of which fat is, and there is more of it
    assert answer.options["lung"] == pytest.approx(1 / 3, abs=0.06)


def test_tissue_like_none_that_was_taught_is_told_of(slide, reader, segmentor, scripted):
    encoder = taught_encoder()
    encoder.plan = replace(PLAN, tissues=(TUMOUR, OTHER, "stroma"))
    survey = SlideReader(reader.tower, encoder).survey(slide, keep=False)
    assert survey.strange == pytest.approx(2 / 3, abs=0.06)
    answer = Copilot(scripted(call("measure", "tumour"), "x"), segmentor).ask(survey, "How much tumour is there?")
    told = STRANGE.format(f"{round(100 * survey.strange)}%", 2)
    assert answer.warnings[:2] == (CLOSED.format(2), told)
    absent = Copilot(scripted(call("segment", "stroma"), "x"), segmentor).ask(survey, "Is there stroma?")
    assert absent.text == "No stroma was found in the tissue."
    assert told in absent.warnings
    assert all(claim.supported for claim in answer.claims)
    import slidekick.copilot

    schema = json.loads((Path(slidekick.copilot.__file__).parent / "answer.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(answer.to_dict())), schema)
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


def test_what_is_not_there_is_said_so(survey, segmentor, scripted):
    answer = Copilot(scripted(call("segment", "stroma"), "Yes."), segmentor).ask(survey, "Is there stroma?")
    assert answer.text == "No stroma was found in the tissue."
    assert answer.short == "no"
    assert not any(item.found for item in answer.evidence)


def test_structures_are_counted_in_places_and_told_as_such(survey, segmentor, scripted):
    answer = Copilot(scripted(call("count", "nucleus"), "Many."), segmentor).ask(survey, "How many nuclei are there?")
    assert len(answer.looked) == PLACES
    assert answer.text == f"There are {3 * PLACES} nuclei in the places looked at."
    assert answer.warnings == ()
    assert segmentor.calls == ["nucleus"] * PLACES
    width, height = survey.slide.dimensions
    for x, y, w, h in answer.looked:
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
        assert w == round(PLACE_UM / 0.5)
    density = next(
        item.value
        for item in SlideToolbox(segmentor, survey).call("measure", {"concept": "nucleus"}, "t1").evidence
        if item.kind == "density"
    )
    assert density == pytest.approx(3 * PLACES / (PLACES * PLACE_UM**2 / 1e6), rel=1e-6)


def test_places_lie_in_the_tissue_that_the_question_names(survey, segmentor):
    assert mentioned("How many nuclei are there in the tumour?", survey) == (TUMOUR,)
    box = SlideToolbox(segmentor, survey, "How many nuclei are there in the tumour?")
    box.call("count", {"concept": "nucleus"}, "t1")
    assert box.looks
    assert all(look.roi.region.x + look.roi.region.width / 2 < 1400 for look in box.looks)


def test_unknown_words_stay_unknown(survey, segmentor, scripted):
    answer = Copilot(scripted(call("count", "unicorn"), "No."), segmentor).ask(survey, "How many unicorns?")
    assert answer.short == "unknown"
    assert "not in the" in answer.text


def test_places_are_apart_and_never_more_than_there_are(survey):
    for among in ((), (TUMOUR,)):
        chosen = survey.places(5, among)
        assert len(set(chosen)) == len(chosen) <= 5
    where = survey.tiles.places[survey.places(5, (FAT,))]
    gaps = np.abs(where[:, None] - where[None]).max(-1)[~np.eye(len(where), dtype=bool)]
    assert gaps.min() >= APART
    assert len(survey.places(10_000)) == len(survey.tiles)


def test_features_are_kept_by_the_files_content(slide, tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path))
    tower = ColourTower()
    first = slide_tiles(slide, tower)
    again = slide_tiles(slide, tower)
    assert tower.seen == len(first) > 50
    assert np.array_equal(first.features, again.features)
    (file,) = (tmp_path / "tiles").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert len(slide_tiles(slide, tower)) == len(first)
    assert tower.seen == 2 * len(first)


def test_blank_glass_has_no_tissue_and_nothing_is_found(tmp_path, reader, segmentor, scripted):
    blank = np.full((2100, 2100, 3), 243, np.uint8)
    with open_slide(write_pyramid(tmp_path / "blank.tif", blank, 2, 0.5)) as opened:
        survey = reader.survey(opened, keep=False)
        assert len(survey.tiles) == 0
        for tool, concept in (("segment", "tumour"), ("count", "nucleus")):
            answer = Copilot(scripted(call(tool, concept), "Yes, 12."), segmentor).ask(survey, f"Is there {concept}?")
            assert answer.text.startswith("No ")
        assert survey.tokens.shape == (SIDE * SIDE, PLAN.tokens)


@pytest.mark.parametrize("words", ["largest gland", "the biggest tumour"])
def test_the_largest_object_of_a_slide_is_not_told(survey, segmentor, words):
    outcome = SlideToolbox(segmentor, survey).call("measure", {"concept": words}, "t1")
    assert "ask about a region" in outcome.result["error"]
    assert not segmentor.calls


def test_a_slide_without_scale_is_refused(tmp_path, reader):
    pixels = np.full((2100, 2100, 3), 200, np.uint8)
    with (
        open_slide(write_pyramid(tmp_path / "bare.tif", pixels, 2, None)) as opened,
        pytest.raises(InputError, match=r"bare.tif: no scale .*--mpp"),
    ):
        reader.survey(opened, keep=False)


@given(st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_each_token_shares_its_attention_out_whole_and_looks_at_its_own_place(number, seed):
    rng = np.random.default_rng(seed)
    places = torch.from_numpy(rng.integers(0, 30, (number, 2)).astype(np.float32))
    weights = SlideEncoder(PLAN).attention(places)
    assert weights.shape == (SIDE * SIDE, number + 1)
    assert torch.allclose(weights.sum(1), torch.ones(SIDE * SIDE), atol=1e-5)
    assert (weights >= 0).all()


def test_tokens_do_not_depend_on_the_order_of_tiles(survey):
    parts = [
        torch.from_numpy(part).float() for part in (survey.tiles.features, survey.tiles.tokens, survey.tiles.places)
    ]
    order = torch.randperm(len(parts[0]))
    with torch.inference_mode():
        assert torch.allclose(survey.encoder(*parts), survey.encoder(*(part[order] for part in parts)), atol=1e-4)


def test_encoder_is_saved_and_loaded(tmp_path, survey):
    survey.encoder.save(tmp_path)
    loaded = load_slide_encoder(tmp_path)
    assert loaded.plan == survey.encoder.plan
    parts = [torch.from_numpy(part).float() for part in (survey.tiles.features, survey.tiles.places)]
    with torch.inference_mode():
        assert torch.allclose(loaded.tissues(*parts), survey.encoder.tissues(*parts), atol=0.05)


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_broken_encoder_is_told_in_one_line(tmp_path, damage):
    SlideEncoder(PLAN).save(tmp_path)
    if damage == "missing":
        (tmp_path / "encoder.json").unlink()
    elif damage == "cut":
        file = tmp_path / "encoder.safetensors"
        file.write_bytes(file.read_bytes()[:200])
    else:
        (tmp_path / "encoder.json").write_text('{"schema": "another"}')
    with pytest.raises(InputError, match="no slide encoder"):
        load_slide_encoder(tmp_path)


def test_a_model_reads_the_tokens_of_a_slide_with_the_expert_for_slides(own_tiny):
    model, processor = own_tiny
    if not hasattr(model.model, "multi_modal_projector"):
        pytest.skip("slide tokens are for models of mini's kind; others are shown pictures")
    width = model.get_input_embeddings().embedding_dim
    plan = ExpertPlan(("first",), 2, 4, r".*language_model.*q_proj", top=1, aside=(SLIDE,))
    experts = Experts(model, plan, width, width)
    engine = TorchEngine(model, processor, max_new_tokens=8, experts=experts)
    pixels = np.full((60, 60, 3), 200, np.uint8)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}]
    torch.manual_seed(0)
    pictures = [SlidePicture(pixels, torch.randn(36, width)) for _ in range(2)]
    turns = [list(engine.turn(asked, picture, tool_schemas()))[-1] for picture in (*pictures, pixels)]
    assert turns[0].gates == turns[1].gates == {SLIDE: 1.0}
    assert turns[2].gates == {"first": 1.0}
    logits = [engine.options(asked, picture, tool_schemas(), ["colon", "lung"]) for picture in pictures]
    assert not np.allclose(*logits)


def test_regions_of_tiles_lie_on_the_slide(survey):
    width, height = survey.slide.dimensions
    for index in (0, len(survey.tiles) - 1):
        region = survey.tiles.region(index)
        assert isinstance(region, Region)
        assert region.x + region.width <= width
        assert region.y + region.height <= height


def test_a_case_says_what_its_slides_say_together(survey, segmentor, scripted):
    lines = [call("segment", "tumour"), "Yes."] * 2
    result = ask_case(Copilot(scripted(*lines), segmentor), [survey, survey], "Is there tumour?")
    share = survey.find(TUMOUR, (TUMOUR,))
    whole = f"{round(100 * share.mask.sum() / share.within.sum())}%"
    assert result.text == (
        f"Tumour was found on both slides (case.tif {whole}, case.tif (2) {whole}), {whole} of all their tissue."
    )
    assert [name for name, _ in result.slides] == ["case.tif", "case.tif (2)"]
    assert all(answer.evidence for _, answer in result.slides)
    json.dumps(result.to_dict())


def test_a_case_without_the_tissue_says_so(survey, segmentor, scripted):
    lines = [call("segment", "stroma"), "No."] * 3
    result = ask_case(Copilot(scripted(*lines), segmentor), [survey] * 3, "Is there stroma?")
    assert result.text == "No stroma was found on any of 3 slides."


def test_counts_of_a_case_add_up(survey, segmentor, scripted):
    lines = [call("count", "nucleus"), "Many."] * 2
    result = ask_case(Copilot(scripted(*lines), segmentor), [survey, survey], "How many nuclei?")
    assert result.text.startswith(f"{2 * 3 * PLACES} nuclei in the places looked at on both slides")


def test_readings_of_a_case_stand_side_by_side(survey, segmentor, scripted):
    result = ask_case(Copilot(scripted("lung", "colon"), segmentor), [survey, survey], "Which organ is it?")
    assert result.text == "case.tif: lung. case.tif (2): colon."
    with pytest.raises(InputError, match="0 slides"):
        ask_case(Copilot(scripted(), segmentor), [], "Which organ is it?")


def test_a_report_on_a_slide_tells_each_tissue_of_the_tissue(survey, segmentor, scripted):
    lines = ["lung", *[call("segment", "lung adenocarcinoma"), "Yes."] * 8]
    report = draft_report(Copilot(scripted(*lines), segmentor), survey, [TUMOUR, FAT, "stroma"])
    measured = {fact.measurement.concept: fact.measurement for fact in report.facts}
    assert measured[TUMOUR].of == measured[FAT].of == "tissue"
    assert measured[TUMOUR].area_fraction + measured[FAT].area_fraction == pytest.approx(1, abs=0.02)
    assert not measured["stroma"].found
    assert report.size == survey.thumbnail.pixels.shape[1::-1]
    assert "of the tissue" in to_html(report)


def test_the_compiled_tower_gives_what_torch_gives(tiny, tmp_path, monkeypatch):
    model, _ = tiny
    if not hasattr(model.model, "multi_modal_projector"):
        pytest.skip("tiles go through mini's tower")
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path))
    tiles = np.random.default_rng(0).integers(0, 256, (3, 192, 192, 3), np.uint8)
    compiled, plain = TileTower(lambda: model, "tiny"), TileTower(lambda: model, "")
    for ours, theirs in zip(compiled(tiles), plain(tiles), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()
    assert {file.suffix for file in (tmp_path / "graphs").iterdir()} == {".bin", ".xml", ".blob"}


def test_a_digit_in_the_name_asks_for_no_amount(survey, segmentor, scripted):
    questions = {"Is there tissue 4?": "unknown", "Is there stroma?": "no", "Are there 4 parts of stroma?": "not found"}
    for question, short in questions.items():
        concept = "tissue 4" if "tissue" in question else "stroma"
        lines = [call("segment", concept), "Maybe."]
        assert Copilot(scripted(*lines), segmentor).ask(survey, question).short == short
    steps = [Step("t1", "segment", {"concept": "Gleason pattern 4"}, {"found": False}, 0.0)]
    assert short_answer("Is there Gleason pattern 4?", "No.", steps) == "no"
