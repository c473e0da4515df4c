"""The data card counts right, quotes no text set, and is written by the command line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import slidekick.copilot.base
from slidekick.apps.cli import main
from slidekick.rl.instructions import SHARES
from slidekick.rl.instructions.card import LONGEST, write_card
from slidekick.rl.instructions.material import Plan
from slidekick.rl.instructions.texts import load_texts

MINI = Path(__file__).parents[2] / "rl" / "configs" / "mini.yaml"


@pytest.fixture(scope="module")
def data(rich, tmp_path_factory) -> Path:
    """The rich folder with pages that state licences."""
    root = tmp_path_factory.mktemp("licensed") / "data"
    shutil.copytree(rich, root)
    (root / "glas" / "SOURCE.md").write_text("# GlaS\n- Licence as stated (README): research | only.\n")
    (root / "text" / "pathvqa" / "SOURCE.md").write_text("By X (2020). Licence as stated: MIT, " + "so on " * 60 + "\n")
    return root


@pytest.fixture(scope="module")
def card(data, processor):
    return write_card(Plan(1000, 1, {"vqa": 0.2}), data, "c.yaml", processor.tokenizer)


def altered(**changes) -> str:
    """mini's own configuration with another section of instructions, nothing held back."""
    config = yaml.safe_load(MINI.read_text())
    config["instructions"] |= {"held_back": []} | changes
    return yaml.safe_dump(config)


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    table = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_the_card_counts_every_conversation_once_by_family_and_set(card):
    text, headline = card
    (head, *sets, total) = rows_of(text, "By set")
    assert head[1:-1] == list(SHARES)
    assert [sum(int(row[i]) for row in sets) for i in range(1, len(head))] == [int(cell) for cell in total[1:]]
    assert int(total[-1]) == headline["instructions"] == 1000
    families = {row[0]: int(row[2]) for row in rows_of(text, "Families")[1:]}
    assert families == dict(zip(head[1:-1], map(int, total[1:-1]), strict=True))


def test_the_card_states_licences_in_one_short_line_a_set(card):
    licences = {row[0]: row[1] for row in rows_of(card[0], "Licences")[1:]}
    assert licences["glas"] == "research / only."
    assert licences["pathvqa"].startswith("MIT, so on")
    assert len(licences["pathvqa"]) < 160
    assert licences["bccd_blood_cells"] == "not stated"


def test_examples_are_short_and_none_is_copied_from_a_text_set(card, data):
    text, _ = card
    examples = re.findall(r"^- (\*\*.+)$", text, re.MULTILINE)
    assert len(examples) > 30
    assert max(map(len, examples)) <= LONGEST
    for row in load_texts(data):
        for question, answer in row.forms:
            assert f"**{question}** {answer}" not in text
        assert row.source[0] not in text


def test_the_card_tells_of_leaks_time_tokens_and_that_it_is_for_research_only(card):
    text, headline = card
    assert headline["leaks"] == 0
    assert "found 0 that show a held-out picture" in text
    assert "Research use only" in text
    assert f"{headline['tokens']} tokens on average" in text
    assert headline["tokens"] > 60
    assert set(headline["seconds"]) == {"read and compare", "make"}


def test_the_command_writes_the_card_and_sums_it_up(data, processor, tmp_path, monkeypatch, capsys):
    processor.tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(slidekick.copilot.base, "base_folder", lambda: tmp_path / "base")
    config, target = tmp_path / "c.yaml", tmp_path / "card.md"
    config.write_text(altered(count=200))
    command = ["train", "instructions", str(config), "--data", str(data), "--card", str(target)]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["instructions"], summary["leaks"], summary["card"]) == (200, 0, str(target))
    assert target.read_text().startswith("# The instructions of the generalist")
    assert main(command) == 0
    assert "200 instructions of" in capsys.readouterr().out


def test_what_is_wrong_with_a_section_is_told_in_one_line(data, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(altered(held_back=["nowhere"]))
    assert main(["train", "instructions", str(config), "--data", str(data), "--card", str(tmp_path / "x.md")]) == 2
    assert "no set named 'nowhere' to hold back" in capsys.readouterr().err.splitlines()[-1]
    config.write_text(altered(count="many"))
    assert main(["train", "instructions", str(config), "--data", str(data), "--card", str(tmp_path / "x.md")]) == 2
    assert "instructions.count is 'many'" in capsys.readouterr().err
    assert not (tmp_path / "x.md").exists()
