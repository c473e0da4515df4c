"""`slidekick vocabulary`: the card in the terminal, as JSON and in a real browser."""

import json
import shutil

import pytest

from slidekick.apps.bench.page import BROWSERS
from slidekick.apps.cli import main
from slidekick.apps.vocabulary import as_text
from slidekick.grounding.vocabulary import Concept, Vocabulary

CARD = Vocabulary(
    [
        Concept(
            "nucleus", "object", ("nuclei", "cell nucleus"), (0.25, 0.5), 1.0, "cell", train=397, test=104, dice=0.8267
        ),
        Concept("lymphocyte", "object", ("TIL",), (0.25, 0.25), 1.0, "cell", ("nucleus",), organs=("colon",), train=12),
        Concept("tumour", "region", ("tumor", "cancer", "Krebsgeschwür"), (0.5, 2.0), 1.0, "region", train=91),
    ]
)


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "vocabulary.json").write_text(CARD.dumps())
    return folder


def test_the_table_holds_a_line_a_concept(weights, capsys):
    assert main(["vocabulary", "--weights", str(weights)]) == 0
    head, tumour, nucleus, lymphocyte, legend = capsys.readouterr().out.splitlines()
    assert head.split() == ["level", "concept", "synonyms", "kind", "train", "test", "dice", "µm/px"]
    assert tumour.split("  ")[0] == "region"
    assert nucleus.split()[:2] == ["cell", "nucleus"]
    assert nucleus.endswith("object    397   104  0.83  0.25 – 0.5")
    assert lymphocyte.split() == ["lymphocyte", "TIL", "object", "12", "0", "–", "0.25"]
    assert lymphocyte.index("lymphocyte") == nucleus.index("nucleus") + 2
    assert legend.startswith("train, test: pictures")


def test_synonyms_are_shortened_to_the_width_and_nothing_else_is():
    for width in (75, 90, 300):
        *lines, _ = as_text(CARD, width).splitlines()
        assert max(map(len, lines)) <= width
        assert ("…" in lines[1]) == (width < 90)
    narrow = as_text(CARD, 10)
    assert "lymphocyte" in narrow
    assert "tumor, cance…" not in narrow
    assert "tumor, canc…" in narrow


def test_json_is_the_card_itself(weights, capsys):
    assert main(["vocabulary", "--weights", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((weights / "vocabulary.json").read_text())


def test_a_folder_without_a_card_is_told_and_no_page_is_written(tmp_path, capsys):
    assert main(["vocabulary", "--weights", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "vocabulary.json: no such file" in captured.err
    assert not (tmp_path / "page.html").exists()


@pytest.fixture
def open_page(weights, tmp_path, capsys):
    """A function: viewport and colour scheme -> the page in a browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("NO BROWSER: the vocabulary page was not tested; install chromium")
    target = tmp_path / "pages" / "vocabulary.html"
    assert main(["vocabulary", "--weights", str(weights), "--html", str(target)]) == 0
    assert capsys.readouterr().out == f"page: {target}\n"
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])

        def opened(width: int, scheme: str = "light"):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.trouble = []
            page.on("console", lambda message: page.trouble.append(message.text))
            page.on("pageerror", lambda error: page.trouble.append(str(error)))
            page.on("request", lambda request: page.trouble.append(request.url))
            page.goto(target.as_uri())
            assert page.trouble == [target.as_uri()], "nothing else is fetched, and nothing complains"
            return page

        yield opened
        browser.close()


def test_the_page_finds_words_synonyms_and_organs_as_they_are_typed(open_page):
    page = open_page(1280)
    assert page.get_by_text("Research use only. Not for diagnosis.").is_visible()
    assert page.inner_text("#status") == "3 concepts"
    assert page.locator("h2").all_inner_texts() == ["Regions", "Cells"]
    for typed, names in (
        ("NUCL", ["nucleus", "lymphocyte"]),
        ("cell nucleus", ["nucleus", "lymphocyte"]),
        ("colon", ["lymphocyte"]),
        ("krebsgeschwur", ["tumour"]),
        ("unicorn", []),
    ):
        page.fill("#search", typed)
        shown = [row.get_attribute("data-words").split()[0] for row in page.locator("tbody tr:visible").all()]
        assert shown == names, typed
        assert page.inner_text("#status") == f"{len(names)} of 3 concepts"
    assert page.locator("h2:visible").count() == 0
    page.fill("#search", "")
    assert page.locator("tbody tr:visible").count() == 3


def test_the_page_fits_a_phone_and_follows_the_colour_scheme(open_page):
    colours = []
    for scheme in ("light", "dark"):
        page = open_page(360, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.get_by_text("Krebsgeschwür").is_visible()
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
