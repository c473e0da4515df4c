"""Every measured thing that a text states must trace to a tool result; readings are marked as readings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.copilot.answer import Evidence, Step
from slidekick.copilot.evidence import check_text, states_measurement
from slidekick.copilot.language import is_plural, many_of, plural, singular


def facts():
    """Measured: 212 nuclei (31.4 %, 7.43 µm, 0.0123 mm²); gland upper left, 8.2 %; no glomerulus; unicorn unknown."""
    steps = [
        Step(
            "t1",
            "measure",
            {"concept": "nuclei"},
            {"found": True, "count": 212, "area": "31%", "diameter": "7.4 um"},
            0.1,
        ),
        Step("t2", "segment", {"concept": "gland"}, {"found": True, "area": "8%", "where": "upper left"}, 0.1),
        Step("t3", "count", {"concept": "glomerulus"}, {"found": False}, 0.1),
        Step("t4", "count", {"concept": "unicorn"}, {"found": False, "known": False, "nearest": "gland"}, 0.1),
    ]
    rows = [
        ("presence", "nucleus", 0.99, "probability", True, "t1"),
        ("count", "nucleus", 212.0, "objects", True, "t1"),
        ("area_fraction", "nucleus", 0.314, "fraction", True, "t1"),
        ("area", "nucleus", 12300.0, "um2", True, "t1"),
        ("density", "nucleus", 5420.0, "1/mm2", True, "t1"),
        ("diameter", "nucleus", 7.43, "um", True, "t1"),
        ("presence", "gland", 0.97, "probability", True, "t2"),
        ("area_fraction", "gland", 0.082, "fraction", True, "t2"),
        ("presence", "glomerulus", 0.02, "probability", False, "t3"),
        ("presence", "unicorn", None, "probability", False, "t4"),
    ]
    return steps, [Evidence(f"e{i}", *row) for i, row in enumerate(rows, start=1)]


def check(text):
    claims, reasons = check_text(text, *facts())
    return claims, reasons


SUPPORTED = {
    "There are 212 nuclei.": {"e1", "e2"},
    "Yes: gland was found, in the upper left, covering 8% of the picture.": {"e7", "e8"},
    "No glomerulus was found in this picture.": {"e9"},
    '"unicorn" is not in the vocabulary; nearest known: gland.': {"e10"},
    "The nuclei cover 31% of the picture.": {"e1", "e3"},
    "The nuclei cover about 30 percent of the picture.": {"e1", "e3"},
    "Their mean diameter is 7.4 um (nuclei).": {"e1", "e6"},
    "Nuclei measure 7 µm on average.": {"e1", "e6"},
    "About 210 nuclei were counted.": {"e1", "e2"},
    "There are more than 200 nuclei.": {"e1", "e2"},
    "There are 5,420 nuclei per mm2.": {"e1", "e5"},
    "The nuclei cover 12300 um2.": {"e1", "e4"},
    "The nuclei cover 0.0123 mm².": {"e1", "e4"},
    "Glands were found, but no glomeruli were found.": {"e7", "e9"},
    "212 nuclei were found and the gland covers 8%.": {"e1", "e2", "e7", "e8"},
    "There are 0 glomeruli.": {"e9"},
    "Glands lie in the top left corner.": {"e7"},
    "No. There are no glomeruli.": {"e9"},
}


@pytest.mark.parametrize("text", SUPPORTED)
def test_what_was_measured_may_be_said(text):
    claims, reasons = check(text)
    assert reasons == []
    assert all(claim.supported for claim in claims)
    assert claims[-1].kind == "measured"
    assert set(claims[-1].evidence) == SUPPORTED[text]


@pytest.mark.parametrize(
    "text",
    [
        "There are 221 nuclei.",  # slipped digits
        "There are 2120 nuclei.",
        "There are 213 nuclei.",
        "There are 212 glands.",  # another structure's number
        "There are 212 lymphocytes.",  # never looked for
        "There are 212 malignant nuclei.",  # a kind that was not told apart
        "The nuclei cover 8% of the picture.",  # the gland's share
        "The gland covers 31% of the picture.",
        "212 nuclei were found and the gland covers 31%.",
        "Nuclei measure 9.1 um.",
        "There are 212 um of nuclei.",  # right number, wrong unit
        "The nuclei cover 212% of the picture.",
        "Yes: gland was found, in the lower right, covering 8% of the picture.",
        "The gland was found in the centre.",
        "No gland was found in this picture.",  # the opposite of what was measured
        "Glomeruli were found.",
        "Glands were found and no nuclei were found.",
        "No unicorn was found in this picture.",  # not looked for is not absent
        "No tumour was found.",
        "Nuclei cover half of the picture.",
        "There are twelve nuclei.",
        "There is one gland and it is malignant.",
        "Glands were found, consistent with adenocarcinoma.",
        '"gland" is not in the vocabulary; nearest known: nucleus.',
        '"unicorn" is not in the vocabulary; nearest known: nucleus.',
        "There are more than 300 nuclei.",
        "It was found.",  # of four things, which?
    ],
)
def test_what_was_not_measured_is_not_supported(text):
    claims, reasons = check(text)
    assert [claim.kind for claim in claims if not claim.supported] == ["measured"]
    assert len(reasons) == 1
    assert text in reasons[0]


@pytest.mark.parametrize(
    "text",
    [
        "This shows colon tissue.",
        "Yes.",
        "colon adenocarcinoma",
        "Gleason grade 4 pattern.",
        "Gleason 3+4=7 cancer",
        "CD3 stain at 40x.",
        "The tissue is inflamed and the left ventricle is shown.",
        "Invasive carcinoma, grade 2.",
        "segmented neutrophil",
    ],
)
def test_a_reading_needs_no_evidence_and_is_marked_as_one(text):
    claims, reasons = check_text(text, (), ())
    assert [(claim.kind, claim.supported, claim.evidence) for claim in claims] == [("reading", True, ())]
    assert reasons == []


@pytest.mark.parametrize(
    "text",
    ["There are 212 nuclei.", "No gland was found.", "Tumour covers most of the picture.", "There is a gland."],
)
def test_measured_statements_without_any_tool_are_not_supported(text):
    claims, reasons = check_text(text, (), ())
    assert not claims[0].supported
    assert "no tool was used" in reasons[0]


def test_a_sentence_about_the_only_thing_measured_need_not_name_it():
    steps, evidence = facts()
    claims, _ = check_text("There are 212 in total. They cover 31%.", steps[:1], evidence[:6])
    assert [claim.supported for claim in claims] == [True, True]


def test_each_sentence_is_one_claim_and_none_is_lost():
    claims, _ = check("This shows kidney. There are 212 nuclei. There are 999 glands!\nAll approx. 7.4 um wide?")
    assert [claim.text for claim in claims] == [
        "This shows kidney.",
        "There are 212 nuclei.",
        "There are 999 glands!",
        "All approx. 7.4 um wide?",
    ]
    assert [claim.kind for claim in claims] == ["reading", "measured", "measured", "measured"]
    assert [claim.supported for claim in claims][:3] == [True, True, False]


@given(count=st.integers(0, 10**6))
def test_only_the_counted_number_is_supported(count):
    claims, _ = check(f"There are {count} nuclei.")
    assert claims[0].supported == (count == 212)


@given(count=st.integers(0, 10**5), said=st.integers(0, 10**5))
def test_thousands_separators_change_nothing(count, said):
    step = Step("t1", "count", {"concept": "nucleus"}, {"found": True, "count": count}, 0.1)
    items = [
        Evidence("e1", "presence", "nucleus", 0.9, "probability", True, "t1"),
        Evidence("e2", "count", "nucleus", float(count), "objects", True, "t1"),
    ]
    plain, grouped = (check_text(f"There are {n} nuclei.", [step], items)[0][0] for n in (said, f"{said:,}"))
    assert plain.supported == grouped.supported == (said == count and count > 0)


@given(fraction=st.floats(0.01, 1.0))
def test_a_share_may_be_said_as_the_tool_said_it(fraction):
    from slidekick.copilot.tools import percent

    step = Step("t1", "segment", {"concept": "gland"}, {"found": True}, 0.1)
    items = [
        Evidence("e1", "presence", "gland", 0.9, "probability", True, "t1"),
        Evidence("e2", "area_fraction", "gland", fraction, "fraction", True, "t1"),
    ]
    claims, _ = check_text(f"The gland covers {percent(fraction)} of the picture.", [step], items)
    assert claims[0].supported
    wrong, _ = check_text(f"The gland covers {round(100 * fraction) + 2}% of the picture.", [step], items)
    assert not wrong[0].supported


@given(text=st.text(max_size=300))
def test_any_text_can_be_checked(text):
    claims, reasons = check(text)
    assert len(reasons) == sum(not claim.supported for claim in claims)
    for claim in claims:
        assert (claim.kind == "measured") == states_measurement(claim.text)


@pytest.mark.parametrize(
    ("many", "one"),
    [("leucocytes", "leukocyte"), ("leukocytes", "leukocyte"), ("acini", "acinus"), ("glomeruli", "glomerulus")],
)
def test_two_spellings_and_latin_plurals_are_one_word(many, one):
    assert singular(many) == one
    assert plural("acinus") == "acini"


@pytest.mark.parametrize(
    ("name", "many", "several"),
    [
        ("nucleus", "nuclei", False),
        ("nuclei", "nuclei", True),
        ("tumour", "tumours", False),
        ("blood vessels", "blood vessels", True),
        ("stroma", "stroma", False),
        ("mitosis", "mitoses", False),
    ],
)
def test_what_is_plural_already_stays_so(name, many, several):
    assert many_of(name) == many
    assert is_plural(name) == several


def test_sentences_speak_of_several_as_several():
    from slidekick.copilot.sentences import count_sentence, covers_sentence, segment_sentence

    found = {"found": True, "area": "6%", "where": "centre"}
    assert segment_sentence("lymphocytes", found, False).startswith("Lymphocytes were found, in the centre")
    assert segment_sentence("tumours", {"found": False}, True) == "No tumours were found in this picture."
    assert covers_sentence("glands", found) == "Glands cover 6% of the picture."
    assert count_sentence("nuclei", {"found": True, "count": 3}) == "There are 3 nuclei."
