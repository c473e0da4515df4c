"""The study of reinforcement: what its arms change, what is done once only, and what its table says."""

import argparse
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from slidekick.apps.bench import study
from slidekick.apps.bench.study import ARMS, as_text, changed, compared, main
from slidekick.rl import grpo, mixture
from slidekick.rl.evaluation import run as evaluation

CONFIGS = Path(grpo.__file__).parent / "configs"


ROW = {
    "id": "s/1", "answer": "glioma", "task_truth": {"mask": "x" * 9999}, "logits": [-0.123456, -3.0],
    "probabilities": [0.123456, 0.9], "calls": [{"tool": "count", "argument": "gland", "result": {"found": True}}],
}  # fmt: skip


def config_of(name: str) -> dict:
    return yaml.safe_load((CONFIGS / ARMS[name].config).read_text())


def test_arms_differ_in_one_thing_and_by_their_seeds():
    made = {name: changed(config_of(name), ARMS[name], 7, Path("start")) for name in ("rl", "generic", "lora-rl")}
    assert made["rl"] == made["lora-rl"]
    assert {**made["rl"], "rewards": "generic"} == made["generic"]
    assert made["rl"]["rows"]["seed"] == made["rl"]["grpo"]["seed"] == 7
    assert made["rl"]["start"] == "start"
    alone = changed(config_of("lora"), ARMS["lora"], 0, Path("start"))
    whole = config_of("lora")
    assert alone["experts"]["rank"] == whole["experts"]["rank"] * len(whole["experts"]["names"])
    assert alone["experts"]["names"] == ["all"]
    assert alone["experts"]["targets"] == whole["experts"]["targets"]
    assert (alone["instructions"], alone["sft"]) == (whole["instructions"], whole["sft"]), "it has one seed, its own"


def test_more_examples_go_on_with_the_same_experts():
    assert config_of("more")["experts"] == yaml.safe_load((CONFIGS / "experts.yaml").read_text())["experts"]


@pytest.fixture
def shop(monkeypatch, tmp_path):
    """Trainings and evaluations that only note what they were asked for."""
    noted = []
    start = tmp_path / "start"
    (start / "experts").mkdir(parents=True)
    for name in ("tower.safetensors", "adapter_config.json", "adapter_model.safetensors"):
        (start / name).write_text("tower")
    (start / "confidence.json").write_text("{}")

    def train_grpo(path, data, out, resume):
        noted.append(("grpo", yaml.safe_load(path.read_text())["start"]))
        (out / "adapter").mkdir(parents=True)

    def train_experts(path, data, out, resume, add):
        noted.append(("experts", add))
        (out / "experts").mkdir(parents=True)
        return out / "experts"

    def evaluate(copilot, plan, journal):
        noted.append((plan.family, plan.limit))
        return SimpleNamespace(summary={"metrics": {}}, rows=[ROW])

    monkeypatch.setattr(grpo, "train_grpo", train_grpo)
    monkeypatch.setattr(mixture, "train_experts", train_experts)
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    fitted = SimpleNamespace(save=lambda folder: noted.append(("fitted", folder.parent.name)))
    monkeypatch.setattr(evaluation, "calibrate", lambda *_: fitted)
    monkeypatch.setattr(
        "slidekick.copilot.copilot.Copilot.from_pretrained", lambda name: SimpleNamespace(confidence=None)
    )
    return SimpleNamespace(
        noted=noted, args=argparse.Namespace(data=tmp_path, out=tmp_path / "out", start=start), start=start
    )


def test_an_arm_is_trained_and_asked_once(shop):
    study.run("rl", 2, shop.args)
    assert shop.noted == [
        ("grpo", str(shop.start)), ("fitted", "rl-2"), ("tasks", 700), ("tools", 360), ("classify", None)
    ]  # fmt: skip
    kept = json.loads(gzip.decompress((shop.args.out / "rl-2" / "tools" / "samples.jsonl.gz").read_bytes()))
    assert kept == {
        "id": "s/1", "answer": "glioma", "logits": [], "probabilities": [0.1235, 0.9],
        "calls": [{"tool": "count", "argument": "gland"}],
    }  # fmt: skip
    study.run("rl", 2, shop.args)
    assert len(shop.noted) == 5
    (shop.args.out / "rl-2" / "tools" / "samples.jsonl.gz").unlink()
    study.run("rl", 2, shop.args)
    assert shop.noted[5:] == [("tools", 360)]


def test_examples_taught_on_lie_in_a_folder_of_their_own(shop):
    study.run("more", 1, shop.args)
    assert shop.noted[0] == ("experts", shop.start / "experts")
    model = shop.args.out / "more-1" / "adapter"
    assert (model / "tower.safetensors").read_text() == "tower"
    assert (model / "experts").is_dir()
    assert not (model / "confidence.json").exists(), "it was fitted for other weights"


@pytest.mark.parametrize(("rank", "kept"), [(8, True), (32, False)])
def test_a_slides_expert_of_another_rank_is_left_out(shop, rank, kept):
    (shop.start / "slides").mkdir()
    (shop.start / "experts" / "experts.json").write_text(json.dumps({"rank": rank}))
    study.run("more", 1, shop.args)
    assert (shop.args.out / "more-1" / "adapter" / "slides").is_dir() is kept


def test_one_lora_is_reinforced_from_where_its_examples_led(shop):
    study.run("lora", 0, shop.args)
    study.run("lora-rl", 1, shop.args)
    starts = [value for kind, value in shop.noted if kind == "grpo"]
    assert starts == [str(shop.args.out / "lora" / "adapter")]
    assert ("experts", None) in shop.noted


def samples(folder: Path, scores: list[float]) -> None:
    rows = [
        {
            "id": f"s/{i}", "set": "s", "change": "none", "parser": "p", "said": "x", "right": score, "score": score,
            "logits": None, "family": "tasks", "kind": "text", "question": "?", "options": [], "truth": "x",
            "picture_sha256": "0", "group": f"g{i}", "task": "counting", "weight": 1.0, "calls": [],
        }
        for i, score in enumerate(scores)
    ]  # fmt: skip
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_sets_means_of_seeds_beside_each_other(tmp_path, capsys):
    samples(tmp_path / "sft", [0.0, 0.5] * 10)
    samples(tmp_path / "rl-1", [0.5, 1.0] * 10)
    samples(tmp_path / "rl-2", [0.3, 0.8] * 10)
    (tmp_path / "rl-2" / study.DONE).write_text('{"clock": 40.5, "processors": 39.0}')
    (tmp_path / "rl-old").mkdir()
    told = compared(tmp_path)
    assert told["runs"] == {"sft": ["sft"], "rl": ["rl-1", "rl-2"]}
    assert list(told["pairs"]) == ["rl less sft"]
    one = told["pairs"]["rl less sft"]["tasks"]["counting"]
    assert (one["a"], one["b"], one["difference"]["value"]) == (0.25, 0.65, pytest.approx(0.4))
    assert one["difference"]["low"] == pytest.approx(0.3)
    assert one["difference"]["high"] == pytest.approx(0.5)
    text = as_text(told)
    assert "rl-2: 40.5 min, 39.0 of processors" in text
    assert "tasks.counting" in text
    assert main(["table", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == json.loads(json.dumps(told["pairs"]))


def test_what_is_missing_is_told_in_one_line(tmp_path, capsys):
    assert main(["table", "--out", str(tmp_path)]) == 2
    assert main(["rl", "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "run some first" in errors[0]
    assert "give --data" in errors[1]
