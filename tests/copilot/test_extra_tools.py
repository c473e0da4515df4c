"""Tools of other packages: held to their contract, called as the built-in ones, and as well checked."""

import json
import sys
from importlib import resources
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

import slidekick.copilot
from slidekick.copilot import Answer, Copilot
from slidekick.copilot.copilot import find_masks
from slidekick.copilot.extra_tools import gather_tools, installed_tools
from slidekick.copilot.grammar import ToolCall, TurnGrammar, alphabet, fast_json, parse_turn
from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.copilot.tools import TOOL_NAMES, Toolbox, tool_schemas
from slidekick.data.errors import InputError, PluginError

WORDS = {"nuclei": "nucleus", "nucleus": "nucleus"}
LIGHT = """
    from typing import Literal
    import numpy as np
    from slidekick.copilot import Field, Measured, Tool
    from slidekick.data import InputError

    def light(field: Field, part: Literal["mean", "both", "broken", "empty"] = "both"):
        '''Measure how light the picture is.

        Args:
            part: Which numbers.
        '''
        if part == "broken":
            raise RuntimeError("no lamp")
        if part == "empty":
            raise InputError("the picture is too dark to be measured")
        red = field.pixels[..., 0][field.within] / 255
        mean = Measured("mean lightness", np.float32(red.mean()), mask=field.within)
        return [mean] if part == "mean" else [mean, Measured("spread", 100 * red.std(), "%", of="nucleus")]

    tool = Tool(light, asked_by=("how light", "lightness"))
"""


@pytest.fixture
def tools(install):
    install("light-tools", LIGHT, tools={"light": "tool"})
    return installed_tools(TOOL_NAMES, WORDS)


@pytest.fixture
def box(segmentor, roi, tools):
    return Toolbox(segmentor, roi, extra=tools)


def test_importing_the_room_loads_no_package(install):
    install("light-lazy", "raise RuntimeError('too early')", tools={"light": "tool"})
    assert slidekick.copilot.Tool
    assert "light_lazy" not in sys.modules


def test_its_docstring_and_types_are_its_schema_without_the_field(tools):
    function = tools["light"].schema["function"]
    assert function["name"] == "light"
    assert function["description"] == "Measure how light the picture is."
    assert list(function["parameters"]["properties"]) == ["part"]
    assert function["parameters"]["properties"]["part"]["enum"] == ["mean", "both", "broken", "empty"]
    assert "required" not in function["parameters"]


def test_a_call_gives_result_evidence_and_mask(box):
    outcome = box.call("light", {}, "t3")
    assert outcome.result == {"measured": {"mean lightness of the picture": "0.863", "spread of nucleus": "0%"}}
    light, spread = outcome.evidence
    assert (light.kind, light.concept, light.unit, light.step) == ("mean lightness", "picture", "", "t3")
    assert light.value == pytest.approx(220 / 255)
    assert light.rle is not None
    assert (spread.value, spread.unit, spread.rle) == (pytest.approx(0), "%", None)
    assert [finding.concept for finding in outcome.findings] == ["picture"]
    ids = [item.id for item in (*outcome.evidence, *box.call("count", {"concept": "nucleus"}, "t4").evidence)]
    assert len(set(ids)) == len(ids)


def test_of_a_region_it_measures_that_alone(segmentor, roi, tools):
    within = np.zeros(roi.pixels.shape[:2], bool)
    within[:10] = True
    roi.pixels[:10] = 51
    outcome = Toolbox(segmentor, roi, within, tools).call("light", {"part": "mean"}, "t1")
    assert outcome.result == {"measured": {"mean lightness of the region": "0.200"}}
    assert outcome.evidence[0].concept == "region"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"part": "median"}, "part is one of mean, both"),
        ({"part": 3}, "part is no string"),
        ({"path": "/etc/passwd"}, "takes part, not path"),
        (None, "arguments are an object"),
        ({"part": "broken"}, "light-tools: light failed (RuntimeError: no lamp); mend it, or `pip uninstall light-t"),
        ({"part": "empty"}, "the picture is too dark to be measured"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_the_tools_error_in_that_answer(box, arguments, says, capsys):
    outcome = box.call("light", arguments, "t1")
    assert says in outcome.result["error"]
    assert says in outcome.warnings[0]
    assert outcome.evidence == ()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[]", "no list of Measured"),
        ("0.5", "no list of Measured"),
        ("[0.5]", "float in place of Measured"),
        ("[Measured('lightness', -0.1)]", "0 or above"),
        ("[Measured('lightness', float('nan'))]", "finite"),
        ("[Measured('lightness', 'much')]", "as a number"),
        ("[Measured('lightness', 1, 'lux')]", "unit 'lux'"),
        ("[Measured('area fraction', 0.1)]", "built-in tools measure"),
        ("[Measured('100 lights', 0.1)]", "no words"),
        ("[Measured('lightness', 1), Measured('Lightness', 2)]", "two numbers of one name"),
        ("[Measured('lightness', 1, mask=field.pixels)]", "mask that is no bool array"),
        ("[Measured('lack', 1, of='eosin')]", "cannot be told"),  # the sentence would deny what it states
        ("field.pixels.sort() or []", "read-only"),
    ],
)
def test_what_is_no_measurement_is_refused_with_the_package_named(install, segmentor, roi, given, says):
    install(
        "odd-tools",
        f"""
        from slidekick.copilot import Measured, Tool

        def odd(field):
            "Measure something."
            return {given}

        tool = Tool(odd)
        """,
        tools={"odd": "tool"},
    )
    outcome = Toolbox(segmentor, roi, extra=installed_tools(TOOL_NAMES, {})).call("odd", {}, "t1")
    assert says in outcome.result["error"]
    assert outcome.result["error"].startswith("odd-tools: ")


DOCUMENTED = "'''Measure.\n\n    Args:\n        part: Which.\n    '''"


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("count", "tool = Tool(lambda field: [])", "count is the name of a tool of Slidekick's own"),
        ("odd", "import no_such_module", "cannot be loaded (ModuleNotFoundError: No module named 'no_such_module')"),
        ("odd", "raise SystemExit(3)", "cannot be loaded (SystemExit: 3)"),
        ("odd", "", "cannot be loaded (AttributeError"),
        ("odd", "tool = print", "must name a slidekick.copilot.Tool"),
        ("odd", "tool = Tool('run')", "must name a slidekick.copilot.Tool"),
        ("Odd-One", "tool = Tool(lambda field: [])", "lower-case letters"),
        ("odd", "tool = Tool(lambda field: [])", "needs a docstring"),
        ("odd", "def run():\n    'Measure.'\ntool = Tool(run)", "needs a docstring, a field"),
        ("odd", "def run(field, part):\n    'Measure.'\ntool = Tool(run)", "typed arguments"),
        ("odd", f"def run(field, part: list = ()):\n    {DOCUMENTED}\ntool = Tool(run)", "part is no str, int"),
        ("odd", f"def run(field, part: str):\n    {DOCUMENTED}\ntool = Tool(run, ('light',))", "part needs a default"),
        ("odd", "def run(field):\n    'Measure.'\ntool = Tool(run, 'light')", "asked_by is no tuple"),
        ("odd", "def run(field):\n    'Measure.'\ntool = Tool(run, ('?',))", "asked_by is no tuple"),
        ("odd", "def run(field):\n    'Measure.'\ntool = Tool(run, ('Nuclei',))", "'Nuclei', which is nucleus"),
    ],
)
def test_what_is_no_tool_is_one_error_that_names_package_and_mend(install, name, code, says):
    install("odd-tools", f"from slidekick.copilot import Tool\n{code}", tools={name: "tool"})
    with pytest.raises(PluginError) as raised:
        installed_tools(TOOL_NAMES, WORDS)
    assert says in str(raised.value)
    assert str(raised.value).startswith("odd-tools: ")
    assert str(raised.value).endswith("; mend it, or `pip uninstall odd-tools`")
    assert "\n" not in str(raised.value)


def test_two_packages_with_one_name_are_both_named_and_the_rest_is_still_there(install):
    install("a-tools", LIGHT, tools={"light": "tool", "gleam": "tool"})
    install("b-tools", LIGHT, tools={"light": "tool"})
    kept, errors = gather_tools(TOOL_NAMES, WORDS)
    assert list(kept) == ["gleam", "light"]
    assert [str(error) for error in errors] == [
        "b-tools: light is the name of what a-tools brings too; mend it, or `pip uninstall b-tools`"
    ]


# ---- in an answer

CALL = ToolCall("light", {}).to_text()


@pytest.fixture
def ask(segmentor, roi, scripted, tools):
    def ask(*lines, question="Tell me of the light."):
        return Copilot(scripted(*lines), segmentor, tools=tools).ask(roi, question)

    return ask


@pytest.mark.parametrize(
    "text",
    [
        "The mean lightness of the picture is 0.863.",
        "The spread of nucleus is 0% and the mean lightness of the picture is about 0.86.",
        "In the picture, the mean lightness is 0.86.",
    ],
)
def test_a_model_may_say_what_was_measured_in_its_own_words(ask, text):
    answer = ask(CALL, text)
    assert (answer.text, answer.warnings) == (text, ())
    assert [(claim.kind, claim.supported) for claim in answer.claims] == [("measured", True)]
    assert answer.claims[0].evidence


@pytest.mark.parametrize(
    "text",
    [
        "The mean lightness of the picture is 0.963.",
        "The mean lightness of the picture is 0.863 um.",
        "The spread of the picture is 0.863.",
        "There are 0.863 in the picture.",
        "The mean lightness of nucleus is 0.863.",
        "A nucleus was found.",  # nobody looked for one
        "No nucleus was found.",
        "The mean lightness of the picture is 0.863, a sign of tumour.",
        "colon",
    ],
)
def test_what_was_not_measured_is_replaced_by_what_was(ask, text):
    answer = ask(CALL, text)
    assert answer.text == "The mean lightness of the picture is 0.863. The spread of nucleus is 0%."
    assert all(claim.supported and claim.evidence for claim in answer.claims)
    assert any("replaced by what was measured" in warning for warning in answer.warnings)


def test_a_finding_beside_it_is_told_as_before(ask):
    count = ToolCall("count", {"concept": "nucleus"}).to_text()
    part = ToolCall("light", {"part": "mean"}).to_text()
    text = "There are 3 nuclei. The mean lightness of the picture is 0.863."
    answer = ask(count, part, text)
    assert (answer.text, answer.warnings) == (text, ())
    gland = ToolCall("segment", {"concept": "gland"}).to_text()
    text = "Gland was found, in the upper left, covering 25% of the picture."
    assert ask(gland, part, text).claims[0].supported


def test_the_answer_follows_the_public_schema_and_names_the_package(ask):
    answer = ask(CALL, "The mean lightness of the picture is 0.863.")
    schema = json.loads((resources.files(slidekick.copilot) / "answer.schema.json").read_text())
    data = json.loads(json.dumps(answer.to_dict()))
    jsonschema.validate(data, schema)
    assert Answer.from_dict(data) == answer
    assert answer.versions["light-tools"] == "0.1.0"
    assert answer.short == "mean lightness of the picture 0.863, spread of nucleus 0%"
    assert find_masks(answer)["picture"].all()


def test_a_model_that_can_call_any_tool_is_told_of_it_and_one_that_cannot_is_not(segmentor, roi, scripted, tools):
    engine = scripted("colon")
    Copilot(engine, segmentor, tools=tools).ask(roi, "What is the lightness?")
    assert [schema["function"]["name"] for schema in engine.asked[0]["tools"]] == [*TOOL_NAMES, "light"]
    engine = scripted("colon")
    engine.fixed_tools = True
    Copilot(engine, segmentor, tools=tools).ask(roi, "What is shown?")
    assert engine.asked[0]["tools"] == tool_schemas()


@pytest.mark.parametrize("question", ["How light is it?", "What is the LIGHTNESS here?", "How  light, please?"])
def test_where_a_model_can_call_no_other_tool_a_declared_phrase_asks_for_it(segmentor, roi, scripted, tools, question):
    engine = scripted()
    engine.fixed_tools = True
    answer = Copilot(engine, segmentor, tools=tools).ask(roi, question)
    assert engine.asked == []
    assert answer.text == "The mean lightness of the picture is 0.863. The spread of nucleus is 0%."
    assert answer.confidence == 1.0
    assert all(claim.supported and claim.kind == "measured" for claim in answer.claims)
    assert [(step.name, step.arguments) for step in answer.steps] == [("light", {})]
    assert any("asks for the tool light: it alone answers" in warning for warning in answer.warnings)


@pytest.mark.parametrize("question", ["Is it bright?", "Is it lighter than that?", "light", "How many nuclei?"])
def test_without_the_phrase_it_does_not_run(segmentor, roi, scripted, tools, question):
    engine = scripted("colon")
    engine.fixed_tools = True
    answer = Copilot(engine, segmentor, tools=tools).ask(roi, question)
    assert (answer.text, answer.steps) == ("colon", ())


def test_a_tool_that_fails_leaves_an_answer_without_words_and_a_warning(segmentor, roi, scripted, install):
    code = LIGHT.replace('if part == "broken":', "if True:")
    install("light-broken", code, tools={"light": "tool"})
    engine = scripted()
    engine.fixed_tools = True
    answer = Copilot(engine, segmentor, tools=installed_tools(TOOL_NAMES, {})).ask(roi, "How light is it?")
    assert (answer.text, answer.confidence, answer.claims) == ("", 0.0, ())
    assert any("light could not run: light-broken: light failed" in warning for warning in answer.warnings)


def test_answers_in_the_making_together_may_be_a_tools_own(segmentor, roi, scripted, tools):
    engine = scripted("colon")
    engine.fixed_tools = True
    copilot = Copilot(engine, segmentor, tools=tools)
    asked = [(copilot.toolbox(roi), words) for words in ("How light is it?", "What is shown?")]
    assert [answer.short[:4] for answer in copilot.ask_many(asked)] == ["mean", "colo"]


def test_of_a_whole_slide_it_says_that_a_region_is_needed(segmentor, roi, tools):
    box = SlideToolbox(segmentor, SimpleNamespace(thumbnail=roi), extra=tools)
    assert "ask about a region" in box.call("light", {}, "t1").result["error"]


def test_it_can_ask_the_segmentor(install, segmentor, roi):
    install(
        "share-tools",
        """
        from slidekick.copilot import Measured, Tool

        def share(field):
            "Measure the nuclei's share of all that is marked."
            return [Measured("share", 100 * field.find("nucleus").mask.mean(), "%", of="nucleus")]

        tool = Tool(share)
        """,
        tools={"share": "tool"},
    )
    outcome = Toolbox(segmentor, roi, extra=installed_tools(TOOL_NAMES, {})).call("share", {}, "t1")
    assert outcome.result == {"measured": {"share of nucleus": "2.50%"}}


def test_the_grammar_admits_its_calls_and_no_others(tokenizer, tools):
    import torch

    schemas = (*tool_schemas(), tools["light"].schema)
    grammar = TurnGrammar(alphabet(fast_json(tokenizer), len(tokenizer), [tokenizer.eos_token_id]), schemas)
    call = ToolCall("light", {"part": "mean"}).to_text()
    assert parse_turn(_forced(grammar, tokenizer, call, torch)) == ToolCall("light", {"part": "mean"})
    assert _forced(grammar, tokenizer, call.replace("mean", "none"), torch) != call.replace("mean", "none")


def _forced(grammar, tokenizer, text, torch) -> str:
    """What becomes of a text whose tokens the model wants above all."""
    from slidekick.copilot.options import TurnProcessor

    processor, ids = TurnProcessor(grammar.matcher()), [1]
    for token in [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]:
        scores = torch.zeros(1, len(tokenizer))
        scores[0, token] = 50.0
        ids.append(int(processor(torch.tensor([ids]), scores)[0].argmax()))
    return tokenizer.decode(ids[1:-1])


def test_an_input_error_is_not_a_plugin_error(box):
    with pytest.raises(InputError):
        box.extra["light"].measure(box._field("light"), {"part": "empty"})
