"""axe-core finds nothing serious on the page (WCAG 2.2 A and AA): empty, answered, with a report; dark; narrow."""

import pytest
from browsing import WAIT_MS, answered, ask, loaded, open_file

axe = pytest.importorskip("axe_playwright_python.sync_playwright")

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
SERIOUS = ("serious", "critical")


def serious(page):
    """What axe finds, a line each."""
    found = axe.Axe().run(page, options=RULES).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:160]} | {node['failureSummary'][:200]}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_serious_is_found(browser, address, look, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=look)
    page.goto(address)
    loaded(page)
    page.wait_for_timeout(500)
    found = {"empty": serious(page)}
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    found["answered"] = serious(page)
    page.get_by_role("tab", name="Report").click()
    page.locator("#draft").click()
    page.locator("#report").get_by_text("There are 2 nuclei.").wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(500)
    found["with a report"] = serious(page)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "nothing reaches beyond the screen's side"
    page.close()
    assert {state: lines for state, lines in found.items() if lines} == {}
