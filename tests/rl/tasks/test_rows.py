"""Rows to train on: from training pictures, in taught wordings, the same for the same seed; and trl's form of rewards.

The real sets lie beside the repository, or at $SLIDEKICK_DATA.
"""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.rl.evaluation import tool_wordings
from slidekick.rl.instructions.material import gather
from slidekick.rl.instructions.slides import UNTAUGHT, WORDINGS
from slidekick.rl.instructions.wording import NOUNS, UNTAUGHT_WAYS
from slidekick.rl.tasks import TASKS, Rollout, generic_reward, reward_functions, rl_rows
from slidekick.rl.tasks.labels import label_tree

DATA = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL = ("glas", "bccd_blood_cells", "osteosarcoma")
NEW = [
    *tool_wordings.COUNT, *tool_wordings.SEGMENT, *tool_wordings.MEASURE, *tool_wordings.LABEL, *tool_wordings.YES_NO,
    *tool_wordings.ORGAN, *tool_wordings.STAIN, *tool_wordings.REFUSE,
    *(way.format(noun) for way in UNTAUGHT_WAYS for noun in NOUNS.values()),
    *(wording for kind in WORDINGS.values() for wording in kind[-UNTAUGHT:]),
]  # fmt: skip


def untaught(question: str) -> list[str]:
    """The held-out wordings that a question is in."""
    return [one for one in NEW if re.fullmatch(re.sub(r"\\{\w*\\}", ".+", re.escape(one)), question)]


def test_the_check_for_held_out_wordings_finds_them():
    assert untaught("Enumerate the glands in this field.")
    assert untaught("Identify the Gleason pattern.")
    assert untaught("Have we got stroma here?")


def test_rows_follow_from_the_seed_and_show_training_pictures_in_taught_wordings(material, rows):
    again = rl_rows(material, dict.fromkeys(TASKS, 1.0), 180, 4)
    assert again == rows
    assert rl_rows(material, dict.fromkeys(TASKS, 1.0), 180, 5) != rows
    assert Counter(row.task for row in rows) == dict.fromkeys(TASKS, 20)
    assert [row.task for row in rows] != sorted(row.task for row in rows)
    known = {item.image for item in material.items}
    for row in rows:
        assert set(row.images) <= known
        assert (row.slide is not None) == row.task.startswith("slide")
        assert not untaught(row.question), row.question
        assert row.messages[0]["content"][-1] == {"type": "text", "text": row.question}
        assert len(row.messages[0]["content"]) == 1 + len(row.images) + (row.slide is not None)


def test_rows_of_a_plan_are_drawn_again_by_their_seed(material, rows):
    from slidekick.data.composed import draw_layout, load_cases
    from slidekick.rl.tasks.slides import SIZES, cells_of

    for row in rows:
        if row.task == "slide_vqa" and row.truth["cells"]:
            layout, _ = draw_layout(load_cases(material.items), row.slide, **SIZES)
            assert cells_of(layout, row.truth["concept"]) == row.truth["cells"]
            assert layout.share(row.truth["concept"]) == pytest.approx(row.truth["share"])


def test_the_columns_make_a_data_set_of_one_type_a_column(rows, perfect):
    from datasets import Dataset

    table = Dataset.from_list([row.columns() for row in rows])
    for row, read in zip(rows, table, strict=True):
        truth = json.loads(read["truth"])
        assert TASKS[read["task"]].reward(perfect(row), truth).value == pytest.approx(1)


def test_shares_are_kept_and_idle_families_hand_theirs_on(material, caplog):
    made = rl_rows(material, {"counting": 3, "closed_vqa": 1, "report": 0}, 40, 1)
    assert Counter(row.task for row in made) == {"counting": 30, "closed_vqa": 10}
    no_texts = replace(material, items=[item for item in material.items if item.set == "chula_rbc12"], texts=[])
    asked = dict.fromkeys(["counting", "classification", "open_vqa", "detection"], 1.0)
    left = rl_rows(no_texts, asked, 10, 1)
    assert {row.task for row in left} <= {"open_vqa", "detection"}
    assert "nothing to ask about for" in caplog.text


@pytest.mark.parametrize(
    ("tasks", "count", "told"),
    [
        ({"sing": 1}, 5, "no task family 'sing'; there are classification,"),
        ({"counting": -1}, 5, "share of counting is -1"),
        ({"counting": 1}, 0, "0 rows were asked for"),
        ({}, 5, "nothing to ask about for any family"),
    ],
)
def test_what_cannot_be_asked_for_is_named(material, tasks, count, told):
    with pytest.raises(InputError, match=told):
        rl_rows(material, tasks, count, 1)


def _batch(rows, rollouts) -> dict:
    columns = [row.columns() for row in rows]
    names = [name for name in columns[0] if name != "prompt"]
    return {
        "prompts": [one["prompt"] for one in columns],
        "completions": [[{"role": "assistant", "content": rollout.text}] for rollout in rollouts],
        **{name: [one[name] for one in columns] for name in names},
        "trainer_state": None,
        "log_extra": None,
    }


def test_reward_functions_answer_for_their_own_rows_and_log_what_could_not_be_read(rows, perfect):
    rollouts = [perfect(row) for row in rows]
    logged = {}
    batch = _batch(rows, rollouts) | {"rollout": rollouts, "log_metric": logged.__setitem__}
    functions = reward_functions(TASKS.values())
    assert [function.__name__ for function in functions] == [f"reward_{name}" for name in TASKS]
    for name, function in zip(TASKS, functions, strict=True):
        for row, value in zip(rows, function(**batch), strict=True):
            assert (value is None) == (row.task != name)
            assert value is None or value == pytest.approx(row.truth.get("weight", 1.0))
        assert logged[f"{name}/parsed"] == 1
    assert all(value is not None for value in generic_reward()(**batch))
    dumb = batch | {"rollout": [Rollout("teapot")] * len(rows)}
    assert not any(functions[0](**dumb))
    assert logged["classification/parsed"] == 0


def test_completions_of_messages_are_read_with_their_calls_and_cut_ones_are_known(of, perfect):
    row = of("counting")[0]
    right = perfect(row)
    step = right.steps[0]
    call = {"type": "function", "function": {"name": step.name, "arguments": step.arguments}}
    said = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": step.name, "content": json.dumps(step.result)},
        {"role": "assistant", "content": [{"type": "text", "text": right.text}]},
    ]
    assert Rollout.of_messages(said) == right
    assert Rollout.of_messages(said[:2]).text == ""
    (function,) = reward_functions([TASKS["counting"]], ends=(7,))
    batch = _batch([row, row], [right, right]) | {"completions": [said, said], "completion_ids": [[3, 7], [3, 4]]}
    whole, cut = function(**batch)
    assert (whole, cut) == (pytest.approx(1), pytest.approx(0.9))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"role": "tool", "content": "{"},
        {"role": "tool", "content": "[1]"},
        {"role": "assistant", "tool_calls": [{}]},
        {"content": [{"type": "image"}]},
    ],
)
def test_messages_of_any_form_are_passed_over(message):
    assert Rollout.of_messages([message]).text == ""


def test_a_trainer_that_lost_the_masks_is_told(of, perfect):
    row = next(row for row in of("segmentation") if perfect(row).steps[0].mask is not None)
    right = perfect(row)
    (function,) = reward_functions([TASKS["segmentation"]])
    bare = replace(right, steps=(replace(right.steps[0], mask=None),))
    with pytest.raises(ValueError, match="its mask was not kept"):
        function(**_batch([row], [bare]), rollout=[bare])

    class Environment:
        steps = right.steps

    assert function(**_batch([row], [right]), environments=[Environment()]) == [pytest.approx(1)]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"NO SETS at {DATA}: no reward was tried on real labels")
@pytest.mark.parametrize("name", REAL)
def test_the_truth_of_a_real_set_earns_1_in_every_family_it_has(name, perfect):
    made = rl_rows(gather(DATA / name), dict.fromkeys(TASKS, 1.0), 120, 2)
    test = {item.image for item in load_items(DATA / name) if item.split != "train"}
    assert len({row.task for row in made}) >= 3
    for row in made:
        assert not test & set(row.images)
        assert not untaught(row.question), row.question
        reward = TASKS[row.task].reward(perfect(row), row.truth)
        assert reward.value == pytest.approx(1), (row.question, row.truth["answer"], reward)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"NO SETS at {DATA}: the tree of labels was not held against them")
def test_the_tree_knows_every_label_of_the_real_sets():
    for name, labels in label_tree().items():
        if (DATA / name).is_dir():
            assert {item.label for item in load_items(DATA / name) if item.label} <= set(labels)
