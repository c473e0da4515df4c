"""A case's report: what two painted slides say together, each sentence with its evidence, in one safe page."""

import json
import re

import numpy as np
import pytest
from page_parts import Page
from painted_slides import FAT, TUMOUR, TumourEngine
from scripted import DrawnSegmentor
from slide_files import write_pyramid

from slidekick.copilot import Copilot
from slidekick.copilot.reports.case import case_dict, case_html, draft_case
from slidekick.data.errors import InputError
from slidekick.data.slide import open_slide
from slidekick.grounding.vocabulary import Concept, Vocabulary

CONCEPTS = (TUMOUR, FAT, "stroma", "nucleus", "unicorn")


@pytest.fixture(scope="module")
def case(survey):
    return draft_case(Copilot(TumourEngine(), DrawnSegmentor()), [survey, survey], CONCEPTS)


def test_slides_are_told_together_the_most_tissue_first(case, survey):
    assert [slide.name for slide in case.slides] == ["case.tif", "case.tif (2)"]
    assert case.reading == "lung on both slides."
    tissues = [one.text for one in case.findings if "tissue" in one.text.split("of all their")[-1]]
    share = survey.find(FAT, (FAT,))
    whole = f"{round(100 * share.mask.sum() / share.within.sum())}%"
    assert tissues[0].startswith(f"Adipose tissue was found on both slides (case.tif {whole}")
    assert f"{whole} of all their tissue" in tissues[0]
    assert any(one.text.startswith("36 nuclei in the places looked at on both slides") for one in case.findings)


def test_what_is_on_no_slide_is_listed_and_unknown_words_are_not(case):
    assert case.absent == ("stroma",)


def test_every_sentence_names_evidence_of_each_slide(case):
    for sentence in case.findings:
        assert [place for place, _ in sentence.evidence] == [1, 2]
        for place, name in sentence.evidence:
            item = next(one for one in case.slides[place - 1].report.evidence if one.id == name)
            assert item.kind in ("count", "area_fraction")


def test_every_link_of_the_page_leads_to_one_place_on_it(case):
    html = case_html(case)
    page = Page(html)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.links} <= set(ids)
    assert {"s1", "s2"} <= set(ids)
    assert "script" not in {tag for tag, _ in page.tags}
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    words = " ".join(page.words)
    assert "Research use only. Not for diagnosis." in words
    assert "DRAFT" in words
    assert not re.search(r"https?://|url\(", html)


def test_the_json_form_holds_each_slides_report(case):
    data = json.loads(json.dumps(case_dict(case)))
    assert data["schema"] == "slidekick.case-report/1"
    assert [one["name"] for one in data["slides"]] == ["case.tif", "case.tif (2)"]
    assert all("image" not in one["report"] for one in data["slides"])


def test_a_slide_without_tissue_is_told_with_the_others_each_concept_once(tmp_path, survey, reader):
    segmentor = DrawnSegmentor()
    segmentor.vocabulary = Vocabulary([Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0)])
    blank = np.full((2100, 2100, 3), 243, np.uint8)
    with open_slide(write_pyramid(tmp_path / "blank.tif", blank, 2, 0.5)) as opened:
        bare = reader.survey(opened, keep=False)
        for surveys in ([survey, bare], [bare, survey]):
            case = draft_case(Copilot(TumourEngine(), segmentor), surveys, ("nuclei", "nucleus", FAT, "unicorn"))
            assert len(case.findings) == 2
            assert sum("nuclei" in one.text for one in case.findings) == 1
            assert case.absent == ()


def test_no_slide_is_no_case(segmentor, scripted):
    with pytest.raises(InputError, match="0 slides"):
        draft_case(Copilot(scripted(), segmentor), [])
