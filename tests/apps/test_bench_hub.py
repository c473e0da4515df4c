"""What training a hub model takes: a model of a published shape is made and trained by the shipped configurations."""

import json

import numpy as np
import pytest
from PIL import Image

from slidekick.apps.bench import hub


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with one labelled set."""
    folder = tmp_path_factory.mktemp("data") / "glas"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8)).save(folder / f"{number}.png")
        line = {"id": str(number), "image": f"{number}.png", "split": "train", "group": str(number), "organ": "colon"}
        lines.append(json.dumps(line | {"label": ("healthy gland", "malignant gland")[number % 2]}))
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder.parent


def test_a_model_that_was_made_is_asked_and_trained_each_in_a_process_of_its_own(data, capsys):
    """A step has the rows of the configuration however many go at once."""
    command = ["--shape", "tiny", "--data", str(data), "--kinds", "ask", "sft", "--batch", "8", "--json"]
    assert hub.main(command) == 0
    asked, trained = json.loads(capsys.readouterr().out)["rows"]
    assert asked["answer_s"] > 0
    assert asked["answer_tokens_s"] > 0
    assert trained["step_s"] > 0
    assert 16 * 50 < trained["step_tokens"] < 16 * 1500  # 16 conversations a step


def test_published_shapes_have_the_published_sizes():
    import torch
    from transformers import AutoModelForImageTextToText

    for shape, billions in (("3b", 3.75), ("7b", 8.29)):
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(hub.config_of(shape, 4000, {}))
        assert sum(one.numel() for one in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_folder_without_pictures_is_one_line(tmp_path, capsys):
    assert hub.main(["--shape", "tiny", "--data", str(tmp_path), "--kinds", "ask"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
