"""Whole evaluations: a copilot that reads the picture, one that does not, and a real tiny model."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from slidekick.copilot.confidence import Confidence
from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.rl.evaluation import run, yardsticks
from slidekick.rl.evaluation.comparison import compare, holds_run, load_run, save_run
from slidekick.rl.evaluation.page import to_html, worst
from slidekick.rl.evaluation.run import Plan, calibrate, evaluate

METRICS = (
    "balanced_accuracy_mean", "balanced_accuracy.glas", "minus_linear_probe", "minus_finetuned_head", "text_only",
    "ece", "aurc", "coverage", "consistency_wording",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No tower is run: the yardsticks say the commonest label."""
    common = {"glas": "healthy gland", "gbm40": "glioma"}

    def guesses(features, train, held):
        return {name: [common[item.set] for item in held] for name in ("linear_probe", "finetuned_head", "commonest")}

    monkeypatch.setattr(yardsticks, "guesses", guesses)
    monkeypatch.setattr(yardsticks, "Features", lambda copilot: None)


@pytest.fixture
def plan(labelled):
    return Plan("classify", labelled, sets=("glas", "gbm40"))


def test_a_copilot_that_reads_the_picture_is_right_and_a_blank_one_misleads_it(colours, plan):
    metrics = evaluate(colours, plan).summary["metrics"]
    assert set(METRICS) <= set(metrics)
    assert all(f"{name}_ci" in metrics and f"{name}_n" in metrics for name in METRICS)
    assert metrics["balanced_accuracy_mean"] == metrics["consistency_wording"] == metrics["coverage"] == 1
    assert metrics["text_only"] == 0.5, "the grey picture looks like one of two"
    assert metrics["unparsable"] == 0


def test_words_that_name_no_label_or_two_are_worth_nothing_by_themselves(fake, plan):
    for text in ("healthy gland healthy gland", "healthy gland or malignant gland"):
        metrics = evaluate(fake(lambda *_, text=text: text, 0.2), plan).summary["metrics"]
        assert metrics["own_words"] == 0
        assert metrics["unparsable"] == 0, "one of the labels is chosen all the same"
        assert metrics["coverage"] == 0


def test_likeness_decides_where_that_was_fitted_and_settles_open_answers(fake, colours, plan):
    def alike(pixels, options):
        told = colours.engine.say(" ".join(options), pixels)
        return np.array([float(option == told) for option in options])

    copilot = fake(lambda words, pixels: "healthy gland" if "gland" in words else "glioma", 0.6)
    copilot.engine.likeness = alike
    blind = evaluate(copilot, plan)
    assert all(row["likeness"] for row in blind.rows if row["change"] == "none")
    copilot.confidence = Confidence(likeness=10.0)
    metrics = evaluate(copilot, plan).summary["metrics"]
    assert blind.summary["metrics"]["balanced_accuracy_mean"] < metrics["balanced_accuracy_mean"] == 1
    assert metrics["own_words"] == blind.summary["metrics"]["balanced_accuracy_mean"]
    assert metrics["settled"] == 1, "each said a label of its set"


def test_asked_without_pictures_nothing_can_be_seen(colours, plan):
    result = evaluate(colours, replace(plan, text_only=True))
    assert result.summary["without_picture"] == len(result.rows) == 2
    assert {row["picture"] for row in result.rows} == {None}
    assert result.summary["metrics"]["balanced_accuracy_mean"] == 0.5
    assert "text_only" not in result.summary["metrics"]


def test_disturbed_pictures_are_asked_and_kept_apart(fake, plan):
    def fooled_by_turning(words, pixels):
        return "glioma" if pixels.shape[0] < pixels.shape[1] else "necrosis"

    result = evaluate(fake(fooled_by_turning), replace(plan, perturb=True, sets=("gbm40",)))
    metrics = result.summary["metrics"]
    assert metrics["consistency_jpeg"] == metrics["consistency_stain"] == 1
    assert metrics["consistency_rotation"] == pytest.approx(1 / 3, abs=1e-4), "half a turn keeps the shape"
    assert metrics["balanced_accuracy_mean_n"] == 1
    assert {row["change"] for row in result.rows} >= {"none", "rotated 90", "JPEG 50", "stain +10 %", "wording 2"}


def test_the_same_answers_give_the_same_figures_from_the_journal(colours, fake, plan, tmp_path):
    first = evaluate(colours, plan, tmp_path / "answers.jsonl")
    silent = fake(lambda *_: pytest.fail("it was asked again"))
    second = evaluate(silent, plan, tmp_path / "answers.jsonl")
    assert second.rows == first.rows
    assert second.summary["metrics"] == first.summary["metrics"]


def test_the_summary_says_what_made_it(colours, plan):
    summary = evaluate(colours, plan).summary
    assert json.loads(json.dumps(summary)) | {"settings": 0} == summary | {"settings": 0}
    assert (summary["model"], summary["parser"], summary["split"]) == ("fake@w1", "slidekick.parse/1", "test")
    assert summary["settings"]["data"] == plan.data.name
    assert summary["leaks"] == []
    assert "Research use only" in summary["notice"]


def test_leaked_patients_are_told(colours, plan, labelled, monkeypatch):
    items = load_items(labelled, ["glas"])
    monkeypatch.setattr(run, "load_items", lambda *_: items)
    assert len(evaluate(colours, plan).summary["leaks"]) == len(items)


def test_a_training_picture_in_another_format_is_a_leak(colours, tmp_path):
    pixels = Image.new("RGB", (8, 8), "purple")
    rows = []
    for split, name in (("train", "a.png"), ("test", "b.bmp"), ("train", "broken.png"), ("test", "c.png")):
        picture = pixels if name in ("a.png", "b.bmp") else Image.new("RGB", (8, 8), "white")
        picture.save(tmp_path / name)
        rows.append({"id": name, "image": name, "question": "Is it?", "answer": "yes", "split": split})
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = evaluate(colours, Plan("vqa", tmp_path, beside=False)).summary
    assert [name.rpartition("/")[2] for name in summary["leaks"]] == ["b.bmp"]


def test_a_limit_bounds_what_is_asked(colours, plan):
    assert len(evaluate(colours, replace(plan, limit=1, text_only=True)).rows) == 1


def test_nothing_to_ask_is_told(colours, labelled):
    for family in ("classify", "detect", "count", "vqa", "report"):
        with pytest.raises(InputError, match=f"nothing to ask for {family}"):
            evaluate(colours, Plan(family, labelled, sets=("loose",)))


def test_confidence_is_fitted_on_val(labelled, fake, colours, tmp_path, monkeypatch):
    folder = tmp_path / "sets"
    shutil.copytree(labelled, folder)
    for file in folder.glob("*/items.jsonl"):
        file.write_text(file.read_text().replace('"split": "train"', '"split": "val"'))
    always = calibrate(
        fake(lambda words, _: "healthy gland" if "gland" in words else "glioma"), Plan("classify", folder)
    )
    assert always.weights == "w1"
    assert always.n == 10
    assert always.temperature > 2, "sure and often wrong"
    assert always.likeness == 0, "the engine tells none"
    assert "glioma" in always.rivals("necrosis")
    seeing = fake(lambda words, _: "healthy gland" if "gland" in words else "glioma")
    seeing.engine.likeness = lambda pixels, options: [
        float(option == colours.engine.say(" ".join(options), pixels)) for option in options
    ]
    assert calibrate(seeing, Plan("classify", folder)).likeness > 1, "it is right where words are not"
    plain = fake(str)
    plain.engine = SimpleNamespace(name="server")
    with pytest.raises(InputError, match="server"):
        calibrate(plain, Plan("classify", folder))


def test_a_fitted_confidence_is_used(colours, plan):
    colours.confidence = Confidence(temperature=1e3, threshold=0.9)
    metrics = evaluate(colours, plan).summary["metrics"]
    assert metrics["answered"] == 0
    assert metrics["ece"] > 0.4, "flat probabilities for answers that are right"


def test_questions_that_came_with_the_data(fake, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"id": str(i), "question": q, "answer": a, "split": s}
            for i, (q, a, s) in enumerate([("Is it benign?", "yes", "test"), ("Is it solid?", "no", "test"),
                                           ("What is it?", "a gland", "test"), ("Is it?", "no", "train")])]  # fmt: skip
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    summary = evaluate(
        fake(lambda words, _: "yes" if words.startswith("Is") else "gland gland"), Plan("vqa", folder)
    ).summary
    metrics = summary["metrics"]
    assert (metrics["accuracy.yes_no"], metrics["commonest"]) == (0.5, 0.5)
    assert metrics["token_f1.text"] == pytest.approx(0.5), "the second gland costs precision"
    assert summary["without_picture"] == 3
    assert "text_only" not in metrics, "there is no picture to take away"


def test_runs_are_compared_on_the_same_draws(colours, fake, plan, tmp_path):
    wrong = fake(lambda words, _: "healthy gland" if "gland" in words else "oedema")
    for name, copilot in (("a", colours), ("b", wrong)):
        rows = evaluate(copilot, plan).rows
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = compare(tmp_path / "a", tmp_path / "a")
    assert all(one["difference"]["value"] in (0, None) for one in same["figures"].values())
    told = compare(tmp_path / "a", tmp_path / "b")
    one = told["figures"]["balanced_accuracy_mean"]
    assert (one["a"], one["b"], told["metrics"]["balanced_accuracy_mean"]) == (1, 0.5, -0.5)
    assert told["common"] == 2
    several = compare(tmp_path / "a", [tmp_path / "a", tmp_path / "b"])
    one = several["figures"]["balanced_accuracy_mean"]
    assert (one["a"], one["b"], one["difference"]["value"]) == (1, 0.75, -0.25)
    assert several["runs"] == ["a", "a, b"]


def test_what_is_asked_in_other_words_counts_for_consistency_alone(colours, plan, tmp_path):
    rows = evaluate(colours, plan).rows
    fickle = [row | {"said": None, "right": 0.0} if row["change"].startswith("wording") else row for row in rows]
    save_run(tmp_path / "a", {}, rows)
    save_run(tmp_path / "b", {}, fickle)
    told = compare(tmp_path / "a", tmp_path / "b")
    assert (told["common"], told["metrics"]["accuracy"]) == (2, 0)
    one = told["figures"]["consistency_wording"]
    assert (one["a"], one["b"], one["difference"]["n"]) == (1, 0, len(rows) - 2)


def test_intervals_tell_how_far_seeds_differ(colours, fake, plan, tmp_path):
    misled = fake(lambda words, _: "healthy gland" if "gland" in words else "oedema")
    for name, copilot in (("right", colours), ("wrong", misled)):
        rows = evaluate(copilot, plan).rows
        several = [row | {"id": f"{row['id']}/{n}", "group": f"{n}"} for n in range(20) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    right, wrong = tmp_path / "right.jsonl", tmp_path / "wrong.jsonl"
    one = compare(right, wrong)["figures"]["accuracy"]["difference"]
    three = compare([right] * 3, [right, wrong, right])["figures"]["accuracy"]["difference"]
    assert one["low"] == one["high"] == -0.5, "the same picture twenty times over"
    assert three["value"] == pytest.approx(-0.5 / 3, abs=1e-4)
    assert three["low"] < -0.3
    assert three["high"] == 0, "draws without the one that is wrong"


def test_runs_to_be_published_are_zipped_and_compared_as_any(colours, plan, tmp_path):
    rows = evaluate(colours, plan).rows
    for name, zipped in (("plain", False), ("small", True)):
        save_run(tmp_path / name, {}, rows, zipped)
    assert load_run(tmp_path / "plain") == load_run(tmp_path / "small")
    assert holds_run(tmp_path / "small")
    assert not holds_run(tmp_path)
    file = tmp_path / "small" / "samples.jsonl.gz"
    whole = file.read_bytes()
    save_run(tmp_path / "small", {}, rows, True)
    assert file.read_bytes() == whole, "the same rows are the same bytes"
    for broken in (whole[: len(whole) // 2], b"nothing"):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"samples\.jsonl\.gz: no samples of an evaluation"):
            load_run(tmp_path / "small")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("parser", "slidekick.parse/0", "slidekick.parse/0"), ("family", "vqa", "vqa"), ("id", "x/1", "share no"),
     ("truth", "glioma", "truth differs"), ("question", "Other?", "question differs"),
     ("picture_sha256", "x", "picture_sha256 differs")],
)  # fmt: skip
def test_runs_that_cannot_be_compared_are_refused(colours, plan, tmp_path, key, value, told):
    rows = [row for row in evaluate(colours, plan).rows if row["set"] == "glas" and row["change"] == "none"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row | {key: value}) + "\n" for row in rows))
    with pytest.raises(InputError, match=told):
        compare(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_the_page_stands_alone_and_shows_the_worst(fake, plan):
    result = evaluate(fake(lambda *_: "<script>alert(1)</script>", 0.2), plan)
    page = to_html(result.summary, result.rows, result.questions)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Research use only" in page
    assert page.count("data:image/png") >= 2 + len([row for row in result.rows if row["change"] == "none"])
    assert not any(f'{mark}="http' in page for mark in ("src", "href"))


def test_the_worst_are_the_surest_wrong_answers():
    rows = [
        {"id": str(i), "right": r, "score": r, "confidence": c} for i, (r, c) in enumerate([(1, 1), (0, 0.2), (0, 0.9)])
    ]
    assert [row["id"] for row in worst(rows)] == ["2", "1"]


def test_a_real_model_is_evaluated(make_model, processor, plan):
    from slidekick.copilot.copilot import Copilot
    from slidekick.copilot.torch_engine import TorchEngine

    model = make_model()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    copilot = Copilot(TorchEngine(model, processor, "tiny", max_new_tokens=6, history=0), None, "w")
    result = evaluate(copilot, plan)
    for row in result.rows:
        assert np.sum(row["probabilities"]) == pytest.approx(1, abs=1e-3)
        assert len(row["logits"]) == len(row["options"])
        assert row["said"] in row["options"]
    assert result.summary["metrics"]["own_words"] == 0, "random numbers name nothing"
