"""Reinforcement of mini's experts in small: what learns, what is masked, how groups are chosen, resuming, guards."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rewarding import LONG, Drawn
from transformers import LogitsProcessor

import slidekick.rl.grpo
from slidekick.copilot.answer import Step
from slidekick.copilot.experts import ExpertPlan, Experts, load_experts
from slidekick.copilot.messages import step_messages
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.rl.curriculum import Curriculum, Spread, advantages, varied
from slidekick.rl.episodes import Episode
from slidekick.rl.grpo import train_grpo
from slidekick.rl.grpo_curves import draw
from slidekick.rl.tasks import Rollout, reward_functions

CONFIG = {
    "experts": {"train": ["first"], "router": False},
    "rows": {"count": 24, "seed": 3, "views": 2, "tasks": {"classification": 0.6, "closed_vqa": 0.4}},
    "rewards": "tasks",
    "rollouts": {"budget": 5, "calls": 1, "int8": True},
    "curriculum": {"floor": 0.2, "again": 1},
    "anchor": {"weight": 0.05, "answers": 2, "tasks": {}},
    "guards": {},
    "grpo": {
        "max_steps": 2, "num_generations": 3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
        "max_completion_length": 40, "learning_rate": 0.05, "beta": 0.05, "loss_type": "dr_grpo", "logging_steps": 1,
        "save_steps": 1, "disable_tqdm": True, "seed": 3,
    },
}  # fmt: skip


@pytest.fixture
def start(tmp_path, make_model) -> Path:
    """A folder as `train experts` leaves it beside an adapter."""
    folder = tmp_path / "start"
    model = make_model()
    width = model.get_input_embeddings().embedding_dim
    plan = ExpertPlan(("first", "second"), 2, 8, r".*language_model.*\.1\..*(q_proj|v_proj|down_proj)", hidden=8)
    experts = Experts(model, plan, width, width)
    torch.manual_seed(1)
    with torch.no_grad():
        for one in experts.trainable():
            one.normal_(std=0.2)
    experts.save(folder / "experts", "base")
    for name in ("adapter_config.json", "adapter_model.safetensors", "tower.safetensors"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def made(monkeypatch, make_model, processor, labelled, start, tmp_path):
    """Writes a configuration; `train` runs it, `trainer` only makes what would run it."""
    monkeypatch.setattr(slidekick.rl.grpo, "load_mini", lambda folder: (make_model(), processor))
    monkeypatch.setattr(slidekick.rl.grpo, "load_segmentor", Drawn)
    monkeypatch.setattr(slidekick.rl.grpo, "rewards_of", lambda *_: (LONG, reward_functions(list(LONG.values()))))

    class Made:
        def config(self, **changes) -> Path:
            config = {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
                      for key, value in CONFIG.items()}  # fmt: skip
            path = tmp_path / "run.yaml"
            path.write_text(yaml.safe_dump({"start": str(start), **config}))
            return path

        def train(self, name: str, resume: bool = False, **changes) -> Path:
            return train_grpo(self.config(**changes), labelled, tmp_path / name, resume)

        def trainer(self, **changes):
            path = self.config(**changes)
            config = slidekick.rl.grpo.load_config(path)
            rows, material = slidekick.rl.grpo.read_rows(config["rows"], path, labelled)
            (tmp_path / "made").mkdir(exist_ok=True)
            return slidekick.rl.grpo.make_trainer(config, path, rows, material, tmp_path / "made")[0]

    return Made()


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder.parent / "log.json").read_text())


def test_a_run_teaches_the_expert_named_and_goes_on_to_the_same_bytes(made, make_model, start, tmp_path):
    folder = made.train("whole")
    steps = [entry for entry in log_of(folder) if "reward/all" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    assert all(abs(entry["sampling/ratio"] - 1) < 1e-3 for entry in steps)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert steps[1]["kl"] > 1e-6  # the reference stayed behind
    before, after = (load_experts(make_model(), one / "experts") for one in (start, folder))
    for key, value in before.expert_state("second").items():
        assert torch.equal(value, after.expert_state("second")[key]), key
    assert any(not torch.equal(v, after.expert_state("first")[k]) for k, v in before.expert_state("first").items())
    for key, value in before.router.state_dict().items():
        assert torch.equal(value, after.router.state_dict()[key]), key
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-1", tmp_path / "cut/checkpoints/checkpoint-1")
    resumed = made.train("cut", resume=True)
    files = sorted(one.relative_to(folder) for one in folder.rglob("*") if one.is_file())
    assert len(files) == 9
    whole = {file: (folder / file).read_bytes() for file in files}
    ended = made.train("whole", resume=True)  # nothing is left to be learnt
    for file, content in whole.items():
        assert content == (resumed / file).read_bytes() == (ended / file).read_bytes(), file
    draw(log_of(folder), tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


def test_a_guard_ends_a_run_with_what_was_good(made, start, capsys):
    folder = made.train("stopped", guards={"window": 1, "warmup": 0, "truncated": 1, "parsed": 2.0})
    (told,) = [entry for entry in log_of(folder) if "stopped" in entry]
    assert told["step"] == 1
    assert "can be read, less than 200%; nothing was learnt" in told["stopped"]
    assert told["stopped"] in capsys.readouterr().err
    for name in ("first", "second"):
        file = Path("experts") / name / "adapter_model.safetensors"
        assert (folder / file).read_bytes() == (start / file).read_bytes()


class Forced(LogitsProcessor):
    """Admits one text."""

    def __init__(self, ids) -> None:
        self.ids = ids

    def __call__(self, input_ids, scores):
        kept = torch.full_like(scores, float("-inf"))
        kept[:, self.ids[input_ids.shape[1]]] = 0.0
        return kept


@pytest.fixture
def calling(made, monkeypatch):
    """A trainer whose model first calls a tool and then says "ok", whatever it is asked."""
    trainer = made.trainer(rows={"views": 1}, rollouts={"budget": 200})
    tokenizer = trainer.player.tokenizer
    call = '<tool_call>\n{"name": "segment", "arguments": {"concept": "nucleus"}}\n</tool_call>'
    texts = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in (call, "ok")]
    monkeypatch.setattr(trainer.player.grammar, "matcher", lambda calls=True, words=(): texts[0 if calls else 1])
    monkeypatch.setattr("slidekick.rl.episodes.TurnProcessor", Forced)
    return trainer


def test_a_call_runs_once_and_the_prompts_are_those_of_inference(calling, processor):
    player, row = calling.player, next(row for row in calling.rows if row.images)
    prompt = player.prompt(row)
    (episodes,) = player.play([prompt], 3, torch.Generator().manual_seed(0))
    assert player.segmentor.looks == 1
    engine = TorchEngine(player.model, processor, experts=player.experts)
    pixels = np.array(Image.open(row.images[0]).convert("RGB"))
    assert engine.encode(row.messages, pixels, tool_schemas())["input_ids"][0].tolist() == prompt.ids
    for episode in episodes:
        (step,) = episode.steps
        assert step.mask.sum() == 25
        asked = step_messages(Step("t1", step.name, step.arguments, step.result, 0.0))
        second = engine.encode([*row.messages, *asked], pixels, tool_schemas())["input_ids"][0].tolist()
        said = [*prompt.ids, *episode.ids]
        assert said[: len(second)] == second
        heard = [token for token, own in zip(episode.ids, episode.own, strict=True) if not own]
        assert '"found": true' in player.tokenizer.decode(heard)
        assert not player.tokenizer.decode(heard).count("nucleus")
        assert episode.rollout == Rollout("ok", (step,))
        assert len(episode.admitted) == sum(episode.own) < len(episode.own) == len(episode.logs)
    gates = player.gates([prompt])[0].tolist()
    assert engine.gates(row.messages, pixels, tool_schemas()) == pytest.approx(
        dict(zip(("first", "second"), gates, strict=True)), abs=1e-4
    )


def test_what_is_shown_is_asked_of_new_views_and_where_it_lies_of_the_picture_as_it_is(made):
    trainer = made.trainer(rows={"views": 3})
    player, row = trainer.player, next(one for one in trainer.rows if one.task == "classification")
    plain = player.picture(replace(row, task="segmentation"))
    shown = [player.picture(replace(row, question=f"What is this? {number}")) for number in range(12)]
    assert len({one.numpy().tobytes() for one in [plain, *shown]}) == 3
    placed = [player.picture(replace(row, question=f"Where is it? {n}", task="detection")) for n in range(6)]
    assert all(torch.equal(one, plain) for one in placed)


def test_tools_text_is_told_to_trl_as_not_the_models_own(calling):
    calling.groups = calling.collect(2)
    told = calling.told()
    assert len(told["env_mask"]) == 6
    for ids, own, logs in zip(told["completion_ids"], told["env_mask"], told["logprobs"], strict=True):
        assert len(ids) == len(own) == len(logs)
        assert 0 in own
        assert own[-1] == 1


def answered(*texts: str) -> list[Episode]:
    return [Episode([10, 11, 2], [1, 1, 1], [], [0.0] * 3, Rollout(text)) for text in texts]


def test_groups_that_teach_nothing_are_asked_again_and_counted(made, monkeypatch):
    trainer = made.trainer(curriculum={"again": 2})
    flat, other = answered("aa", "aa", "aa"), answered("aa", "aaa", "aa")
    rounds = [[flat, other], [flat], [flat]]
    asked = []

    def play(prompts, number, generator):
        asked.append([prompt.row for prompt in prompts])
        return rounds[len(asked) - 1]

    monkeypatch.setattr(trainer.player, "play", play)
    groups = trainer.collect(2)
    assert [len(rows) for rows in asked] == [2, 1, 1]
    rows = [row for some in asked for row in some]
    assert len({id(row) for row in rows}) == 4  # no question twice in a step
    assert sorted(varied(one.values) for one in groups) == [False, True]  # filled up when the limit is reached
    metrics = trainer._metrics["train"]
    assert metrics["groups/asked"] == [4]
    assert metrics["groups/flat"] == [0.75]
    assert metrics["distinct"] == [pytest.approx(1 / 3)]  # of ids, which are all alike here


rewards = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), rewards), min_size=1, max_size=8))
def test_advantages_are_centred_in_the_group_and_scaled_by_the_task(groups):
    spread = Spread()
    for task, values in groups:
        spread.note(task, values)
    tasks, values = [task for task, _ in groups], np.array([values for _, values in groups])
    found = advantages(values, tasks, spread)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-9)
    for row, task in enumerate(tasks):
        np.testing.assert_allclose(found[row] * spread.of(task), values[row] - values[row].mean(), atol=1e-12)
        assert spread.least <= spread.of(task) <= 0.5 + 1e-9


def test_a_task_of_small_differences_is_scaled_up_beside_one_of_large():
    spread = Spread(least=0.01)
    for _ in range(50):
        spread.note("small", [0.50, 0.54])
        spread.note("large", [0.0, 1.0])
    assert spread.of("small") == pytest.approx(0.02, rel=1e-3)
    assert spread.of("large") == pytest.approx(0.5, rel=1e-3)
    found = advantages(np.array([[0.50, 0.54], [0.0, 1.0]]), ["small", "large"], spread)
    np.testing.assert_allclose(np.abs(found), 1, rtol=1e-3)
    again = Spread(least=0.01)
    again.restore(json.loads(json.dumps(spread.state())))
    assert again.of("small") == spread.of("small")


def test_what_succeeds_half_of_the_time_is_asked_most():
    kinds = [("a", "easy"), ("a", "half"), ("a", "hard")] * 40
    curriculum = Curriculum(kinds, floor=0.1)
    for _ in range(20):
        for row, reward in ((0, 1.0), (1, 0.5), (2, 0.0)):
            curriculum.note(row, [reward] * 4)
    rng = np.random.default_rng(0)
    drawn = [kinds[curriculum.draw(rng)][1] for _ in range(60)]
    assert drawn.count("half") > 3 * max(drawn.count("easy"), drawn.count("hard"))
    assert {"easy", "hard"} <= set(drawn)
    again = Curriculum(kinds, floor=0.1)
    again.restore(json.loads(json.dumps(curriculum.state())))
    one, other = (c.draw(np.random.default_rng(5)) for c in (curriculum, again))
    assert one == other
    with pytest.raises(InputError, match="of other questions"):
        Curriculum(kinds[:3]).restore(curriculum.state())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experts": {"train": ["blood"]}}, "no expert 'blood'"),
        ({"experts": {"train": []}}, "nothing learns"),
        ({"grpo": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}}, "not a multiple of"),
        ({"grpo": {"temperature": 0.7}}, "temperature is 0.7"),
        ({"grpo": {"no_such_key": 1}}, "no_such_key"),
        ({"rows": {"count": 0}}, "rows.count is 0"),
        ({"rows": {"count": 3}}, "a step may ask 4 questions"),
        ({"rows": {"views": 0}}, "rows.views is 0"),
        ({"rollouts": {"int8": 8}}, "rollouts.int8 is 8"),
        ({"rollouts": {"calls": -1}}, "rollouts.calls is -1"),
        ({"rollouts": {"again": 1}}, "'again' is missing or too many"),
        ({"anchor": {"tasks": ["report"]}}, "anchor.tasks is \\['report'\\]; give families and their shares"),
        ({"anchor": {"tasks": {"reports": 1}}}, "anchor.tasks: no task family 'reports'"),
        ({"anchor": {"tasks": {"report": -1}}}, "anchor.tasks.report is -1; give a number"),
        ({"curriculum": {"floor": "low"}}, "curriculum.floor is 'low'"),
        ({"rows": {"tasks": {"poetry": 1}}}, "no task family 'poetry'"),
        ({"rows": {"tasks": {"counting": "much"}}}, "rows.tasks.counting is 'much'; give a number"),
        ({"rows": {"tasks": 5}}, "rows.tasks is 5; give families and their shares"),
    ],
)
def test_settings_that_cannot_be_used_are_told_in_one_line(made, changes, told):
    with pytest.raises(InputError, match=told) as caught:
        made.trainer(**changes)
    assert "\n" not in str(caught.value)


def test_an_empty_start_is_told(made, labelled, tmp_path):
    path = made.config()
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"start": None}))
    with pytest.raises(InputError, match=r"start is '\.', no folder of mini with experts"):
        train_grpo(path, labelled, tmp_path / "out")


def test_right_answers_are_told_beside_the_rewards(made):
    """The loss of the anchor falls where it alone is learnt from, and is that of these answers, step for step."""
    trainer = made.trainer(anchor={"weight": 1.0, "answers": 4}, rollouts={"budget": 48})
    anchor = trainer.anchor
    assert {row.task for row in anchor.rows} >= {"classification", "closed_vqa"}
    first = anchor.loss(3, 0)
    assert first.item() == anchor.loss(3, 0).item()
    assert first.item() != anchor.loss(4, 0).item()
    assert first.item() == pytest.approx(2 * _half(anchor).loss(3, 0).item())
    parameters = [one for one in trainer.experts.trainable() if one.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        anchor.loss(3, 0).backward()
        optimizer.step()
    assert anchor.loss(3, 0).item() < first.item()


def test_a_word_counts_as_much_as_a_line(made, monkeypatch):
    """The loss is a mean over answers: a long one does not drown a short one."""
    anchor = made.trainer(anchor={"weight": 1.0, "answers": 3}, rollouts={"budget": 48}).anchor
    alone = []
    for row in anchor.rows[:3]:
        monkeypatch.setattr(anchor, "rows", [row])
        monkeypatch.setattr(anchor, "odds", np.ones(1))
        alone.append((len(anchor._told(row).ids), anchor.loss(0, 0).item()))
    monkeypatch.undo()
    monkeypatch.setattr(anchor, "rows", anchor.rows[:3])
    monkeypatch.setattr(anchor, "odds", np.ones(3) / 3)
    assert len({length for length, _ in alone}) > 1, "answers of different lengths"
    assert anchor.loss(0, 0).item() == pytest.approx(np.mean([loss for _, loss in alone]), rel=1e-4)


def test_families_have_shares_of_their_own_in_what_is_told(made):
    """Three of four told are of the family that has three times the share, however many of its rows there are."""
    told = made.trainer(anchor={"tasks": {"closed_vqa": 3, "classification": 1}}, rollouts={"budget": 48}).anchor
    shares = defaultdict(float)
    for row, odds in zip(told.rows, told.odds, strict=True):
        shares[row.task] += odds
    assert shares == pytest.approx({"closed_vqa": 0.75, "classification": 0.25})
    alone = made.trainer(anchor={"tasks": {"closed_vqa": 1}, "answers": 99}, rollouts={"budget": 48}).anchor
    assert {row.task for row, odds in zip(alone.rows, alone.odds, strict=True) if odds} == {"closed_vqa"}
    assert alone.loss(1, 0).item() > 0  # as many are told as there are
    assert not made.trainer(anchor={"tasks": {"report": 1}}).anchor  # a family that nothing is asked about


def _half(anchor):
    import copy

    half = copy.copy(anchor)
    half.weight = anchor.weight / 2
    return half


def test_a_run_without_an_anchor_logs_none_and_one_with_it_does(made):
    for weight in (0, 0.1):
        folder = made.train(f"anchored-{weight}", anchor={"weight": weight})
        steps = [entry for entry in log_of(folder) if "reward/all" in entry]
        assert all(("anchor" in entry) == bool(weight) for entry in steps)
