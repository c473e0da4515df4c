"""docs/extending.md as a reader follows it: its code becomes a package, is installed, and Slidekick uses it.

What it brings is computed on a real picture, by the real segmentor and mini, in processes of their own.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2hed

from slidekick.apps import doctor
from slidekick.apps.cli import main
from slidekick.data.samples import sample
from slidekick.grounding.export import from_rle

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
FILES = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 1200


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where the page's package is installed."""
    source, site = tmp_path_factory.mktemp("slidekick-colours"), tmp_path_factory.mktemp("site")
    written = dict(FILES.findall(PAGE.read_text(encoding="utf-8")))
    assert sorted(written) == ["pyproject.toml", "slidekick_pigment.py", "slidekick_stain.py"]
    for name, text in written.items():
        (source / name).write_text(text, encoding="utf-8")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(site), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    return site


@pytest.fixture(scope="module")
def slidekick(site, tmp_path_factory):
    """Runs `slidekick` where the package is installed."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "slidekick.apps.cli", *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path_factory.mktemp("here"), env=env, timeout=TIMEOUT_S
        )

    return run


@pytest.fixture(scope="module")
def brown(tmp_path_factory) -> Path:
    """A part of the sample stained with DAB, so that the run is short."""
    path = tmp_path_factory.mktemp("picture") / "brown.png"
    Image.open(sample("ihc")).convert("RGB").crop((0, 0, 256, 256)).save(path)
    return path


def said(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_doctor_lists_what_is_installed(slidekick):
    found = said(slidekick("doctor", "--json"))
    package = {"package": "slidekick-colours", "version": "0.1.0"}
    phrases = ["how strongly stained", "staining intensity", "optical density"]
    assert found["plugins"] == [
        {"kind": "specialist", "name": "pigment", **package, "concepts": ["pigment"]},
        {"kind": "tool", "name": "stain", **package, "asked_by": phrases},
    ]
    assert found["problems"] == []


def test_the_vocabulary_knows_the_specialists_words(slidekick):
    concepts = {one["name"]: one for one in said(slidekick("vocabulary", "--json"))["concepts"]}
    assert concepts["pigment"]["synonyms"] == ["melanin", "brown pigment"]
    assert "nucleus" in concepts


def test_segment_finds_the_specialists_concept_beside_the_built_in_ones(slidekick, brown, tmp_path):
    done = slidekick("segment", brown, "--concept", "melanin", "--concept", "gland", "--out", tmp_path, "--json")
    pigment, gland = said(done)["findings"]
    assert (pigment["concept"], pigment["known"], gland["concept"]) == ("pigment", True, "gland")
    mask = from_rle(pigment["rle"])
    density = 6 * rgb2hed(np.array(Image.open(brown)))[..., 2]
    assert 0.05 < mask.mean() < 0.95
    assert density[mask].mean() > 0.5 > density[~mask].mean()
    assert pigment["area_fraction"] == pytest.approx(mask.mean())
    assert "brown.pigment.png" in {path.name for path in tmp_path.iterdir()}


def test_mini_calls_its_tools_with_the_specialists_concept(slidekick, brown):
    answer = said(slidekick("ask", brown, "Is there any pigment in this picture?", "--json"))
    assert [step["arguments"] for step in answer["steps"]] == [{"concept": "pigment"}]
    assert answer["short"] == "yes"
    assert {item["concept"] for item in answer["evidence"]} == {"pigment"}
    assert all(claim["supported"] for claim in answer["claims"])
    assert answer["versions"]["slidekick-colours"] == "0.1.0"


def test_a_declared_phrase_asks_for_the_tool_whose_numbers_are_checked(slidekick, brown):
    answer = said(slidekick("ask", brown, "What is the optical density?", "--json"))
    density = 6 * rgb2hed(np.array(Image.open(brown))).mean((0, 1))
    values = {item["concept"]: item["value"] for item in answer["evidence"]}
    assert values == {"haematoxylin": pytest.approx(density[0]), "eosin": pytest.approx(density[1])}
    assert answer["text"].startswith(f"The mean optical density of haematoxylin is {density[0]:.3f}.")
    assert [(claim["kind"], claim["supported"], len(claim["evidence"])) for claim in answer["claims"]] == [
        ("measured", True, 1)
    ] * 2
    assert any("it alone answers, mini was not asked" in warning for warning in answer["warnings"])


# ---- packages that cannot be used

BROKEN = "raise RuntimeError('made for another version')"
LINE = (
    "broken-finders: marks (broken_finders:marks) cannot be loaded (RuntimeError: made for another version); "
    "mend it, or `pip uninstall broken-finders`"
)


@pytest.fixture
def broken(install) -> Path:
    return install("broken-finders", BROKEN, specialists={"marks": "marks"})


def test_a_broken_package_stops_no_help_and_nothing_that_needs_no_plugin(broken, picture):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(broken), os.environ.get("PYTHONPATH", "")])}
    for arguments in (["--help"], ["segment", "--help"], ["slide", "info", str(picture)]):
        command = [sys.executable, "-m", "slidekick.apps.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert "broken-finders" not in done.stderr


@pytest.mark.parametrize("command", [["segment", "PICTURE", "--concept", "nucleus"], ["vocabulary"]])
def test_a_broken_package_ends_a_command_with_one_line(broken, picture, command, capsys):
    assert main([str(picture) if word == "PICTURE" else word for word in command]) == 2
    told = capsys.readouterr()
    assert told.err == f"slidekick: {LINE}\n"
    assert told.out == ""


def test_the_doctor_names_what_is_broken_and_lists_the_rest(broken, install, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "weights", lambda: {"base": True, "mini": True, "segmentor": True})
    tool = "from slidekick.copilot import Tool\ndef dark(field):\n    'Measure.'\ntool = Tool(dark, ('nuclei',))"
    install("dark-tools", tool, tools={"dark": "tool", "count": "tool"})
    good = (
        "from slidekick.grounding import Concept\nclass Ink:\n    concepts = (Concept('{}', 'region', (), (1, 1), 1),)"
    )
    good += "\n    def segment(self, image, concepts, *, mpp): ...\nink = Ink()"
    install("ink-finders", good.format("ink"), specialists={"ink": "ink"})
    install("more-finders", good.format("tumour"), specialists={"tumour": "ink"})
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["plugins"]] == ["ink"]
    for line in (
        LINE,
        "more-finders: its concept 'tumour' is called 'tumour', which is tumour of Slidekick's segmentor; ",
        "dark-tools: dark is asked by 'nuclei', which is nucleus of the segmentor; ",
        "dark-tools: count is the name of a tool of Slidekick's own; ",
    ):
        assert any(problem.startswith(line) for problem in found["problems"]), line
    assert main(["doctor"]) == 1
    assert "specialist ink       ink-finders 0.1.0" in capsys.readouterr().out
