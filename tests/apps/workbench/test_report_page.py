"""The report in a real browser: draft, follow a mark, edit, take away, bring shapes back, reload."""

import io
import json
from pathlib import Path

import pytest
from browsing import WAIT_MS, answered, ask, loaded, open_file, settled


def draft(page):
    page.get_by_role("tab", name="Report").click()
    page.locator("#draft").click()
    page.locator("#report").get_by_text("There are 2 nuclei.").wait_for(timeout=WAIT_MS)


def download(page, name):
    with page.expect_download(timeout=WAIT_MS) as caught:
        page.get_by_role("link", name=name, exact=True).click()
    return Path(caught.value.path()).read_bytes()


def test_a_report_is_drafted_followed_edited_taken_away_and_found_again(page, browser, address):
    open_file(page, "case/a.png")
    draft(page)
    page.locator("#report").get_by_text("Research use only").wait_for(timeout=WAIT_MS)
    before = page.evaluate("slidekick.map.getCenter().lat")
    page.locator("#report a.cite").first.click()
    page.wait_for_function(
        "before => Math.abs(slidekick.map.getCenter().lat - before) > 20", arg=before, timeout=WAIT_MS
    )

    page.locator("#editor button").first.click()
    words = page.locator("#words textarea")
    words.fill(words.input_value().replace("There are 2 nuclei.", "There are 5 nuclei.") + "\n- Added by a person.\n")
    page.locator("#save").click()
    page.locator("#report").get_by_text("Added by a person.").wait_for(timeout=WAIT_MS)
    assert page.locator("#report .hand").count() == 2
    page.locator("#report summary", has_text="Warnings").click()
    page.locator("#report").get_by_text("edited, and not what was measured").first.wait_for(timeout=WAIT_MS)

    assert b"Added by a person." in download(page, "HTML")
    assert b"Added by a person." in download(page, "Markdown")
    assert json.loads(download(page, "FHIR"))["resourceType"] == "DiagnosticReport"
    assert len(json.loads(download(page, "JSON"))["changes"]) >= 1
    import docx

    paragraphs = [one.text for one in docx.Document(io.BytesIO(download(page, "Word"))).paragraphs]
    assert any("Added by a person." in one for one in paragraphs)
    (item,) = (json.loads(line) for line in download(page, "Edits as training items").decode().splitlines())
    assert item["answer"] == "There are 5 nuclei."

    page.reload()
    loaded(page)
    page.get_by_role("tab", name="Report").click()
    page.locator("#report").get_by_text("Added by a person.").wait_for(timeout=WAIT_MS)


def test_words_that_are_not_saved_stay_while_a_region_is_chosen(page):
    open_file(page, "case/a.png")
    draft(page)
    page.locator("#editor button").first.click()
    page.locator("#words textarea").fill("Words of mine.")
    field = page.locator("#region textarea, #region input").first
    field.fill("10,20,100,80")
    settled(page, lambda: field.press("Enter"))
    assert page.locator("#words textarea").input_value() == "Words of mine."


def test_a_mark_that_leads_to_another_slide_brings_its_words_into_the_editor(page):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    draft(page)
    open_file(page, "case/b <b>.png")
    page.get_by_role("tab", name="Conversation").click()
    settled(page, lambda: page.locator("#chat a[href='#mark-0-e1']").click())
    page.get_by_role("tab", name="Report").click()
    page.locator("#editor button").first.click()
    words = page.locator("#words textarea")
    words.wait_for(timeout=WAIT_MS)
    assert "There are 2 nuclei." in words.input_value()


def test_edited_shapes_come_back_through_the_page(page, tmp_path):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    page.locator("#qupath button").first.click()
    with page.expect_download(timeout=WAIT_MS) as caught:
        page.locator("#export-shapes").click()
    data = json.loads(Path(caught.value.path()).read_text())
    assert len(data["features"]) == 2
    file = tmp_path / "edited.geojson"
    file.write_text(json.dumps(data | {"features": data["features"][:1]}))
    settled(page, lambda: page.locator("#qupath input[type=file]").set_input_files(file))
    page.locator("#viewer-legend").get_by_text("nucleus: 1").wait_for(timeout=WAIT_MS)
    ask(page, "How many nuclei are there?")
    answered(page, "There is 1 nucleus.")


@pytest.mark.parametrize("name", ["secret", "report.exe", "..%2f..%2fsession.json", "items.jsonl"])
def test_no_other_file_is_given_out(page, address, name):
    import httpx

    open_file(page, "case/a.png")
    base = page.evaluate("slidekick.state.base")
    assert httpx.get(f"{address.rstrip('/')}/{base}/report/{name}").status_code == 404
