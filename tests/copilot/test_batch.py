"""Many slides on workers: what is written, what is resumed, what a worker's death and a bad slide come to."""

import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from slidekick.copilot.batch import FAILED, PARTS, SlideWorker, Task, collect, left_over, read_table, run_batch
from slidekick.data.errors import InputError, SlidekickError

pytest.importorskip("ray")


def picture(file: Path) -> Path:
    Image.new("RGB", (64, 64), "purple").save(file)
    return file


def copilots(folder: Path):
    """Makes a copilot that notes whom it answered for; it dies at slides named so, and breaks at another."""
    place = str(folder)

    def make():
        from types import SimpleNamespace

        from slidekick.copilot.answer import Answer, Evidence

        class Told:
            def survey(self, slide):
                marker = Path(place) / "died"
                if slide.source.startswith("deadly") and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if slide.source.startswith("poison"):
                    os.kill(os.getpid(), signal.SIGKILL)
                with (Path(place) / "seen.txt").open("a") as notes:
                    notes.write(f"{slide.source} {os.getpid()}\n")
                if slide.source.startswith("broken"):
                    raise RuntimeError("no such layer")
                return SimpleNamespace(tiles=[0] * slide.dimensions[0], slide=slide)

            def ask(self, survey, question):
                share = Evidence("e1", "area_fraction", "tumour", 0.25, "fraction", True, "t1")
                return Answer(question, f"{survey.slide.source}!", "yes", 0.5, (share,))

        return Told()

    return make


def seen(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "seen.txt").read_text().splitlines()]


def test_a_worker_answers_everything_of_a_slide(tmp_path):
    worker = SlideWorker(copilots(tmp_path), str(tmp_path))
    task = Task(str(picture(tmp_path / "a.png")), ("Is there tumour?", "How much?"), "case 1")
    assert worker(vars(task) | {"questions": list(task.questions)})["status"] == "done"
    results, failed, lost = collect([task], tmp_path)
    import pyarrow.parquet as pq

    rows = pq.read_table(results).to_pylist()
    assert (failed, lost) == (None, 0)
    assert [(row["slide"], row["case"], row["question"], row["short"]) for row in rows] == [
        ("a.png", "case 1", "Is there tumour?", "yes"),
        ("a.png", "case 1", "How much?", "yes"),
    ]
    assert rows[0]["area_fraction"] == 0.25
    assert json.loads(rows[0]["answer"])["notice"].startswith("Research use only")


def test_what_cannot_be_read_is_a_row_of_the_failures_and_is_tried_by_the_next_run(tmp_path):
    worker = SlideWorker(copilots(tmp_path), str(tmp_path))
    tasks = [
        Task(str(tmp_path / "missing.svs"), ("Is there tumour?",)),
        Task(str(picture(tmp_path / "broken.png")), ("Is there tumour?",)),
    ]
    states = [worker(vars(task) | {"questions": list(task.questions)})["status"] for task in tasks]
    assert states == ["unreadable", "failed"]
    assert seen(tmp_path) == ["broken.png"] * 3
    _, failed, lost = collect(tasks, tmp_path)
    assert lost == 2
    lines = failed.read_text().splitlines()
    assert len(lines) == 3
    assert "no such file" in lines[1]
    assert "RuntimeError: no such layer" in lines[2]
    assert left_over(tasks, tmp_path) == tasks


def test_a_slide_of_two_cases_is_asked_once_and_told_under_each(tmp_path):
    file = str(picture(tmp_path / "a.png"))
    tasks = [Task(file, ("Is there tumour?",), case) for case in ("one", "two")]
    assert SlideWorker(copilots(tmp_path), str(tmp_path))(vars(tasks[0]))["status"] == "done"
    assert left_over(tasks, tmp_path) == []
    import pyarrow.parquet as pq

    rows = pq.read_table(collect(tasks, tmp_path)[0]).to_pylist()
    assert [row["case"] for row in rows] == ["one", "two"]


def test_another_model_or_another_slide_under_the_same_name_is_answered_anew(tmp_path):
    task = Task(str(picture(tmp_path / "a.png")), ("Is there tumour?",))
    assert SlideWorker(copilots(tmp_path), str(tmp_path), maker="mini")(vars(task))["status"] == "done"
    assert left_over([task], tmp_path, "mini") == []
    assert left_over([task], tmp_path, "other") == [task]
    assert collect([task], tmp_path, "other")[2] == 1
    Image.new("RGB", (64, 64), "white").save(task.slide)
    assert left_over([task], tmp_path, "mini") == [task]


def test_two_workers_one_of_which_is_killed_lose_nothing(tmp_path):
    names = ["a.png", "b.png", "deadly.png", "c.png", "d.png"]
    tasks = [Task(str(picture(tmp_path / name)), ("Is there tumour?",)) for name in names]
    told = list(run_batch(tasks, copilots(tmp_path), tmp_path / "out", workers=2))
    assert sorted(one["key"] for one in told) == sorted(task.key() for task in tasks)
    assert {one["status"] for one in told} == {"done"}
    assert (tmp_path / "died").exists()
    assert {*seen(tmp_path)} == {*names}
    before = len(seen(tmp_path))
    left = left_over(tasks, tmp_path / "out")
    assert left == []
    assert list(run_batch(left, copilots(tmp_path), tmp_path / "out", workers=2)) == []
    assert len(seen(tmp_path)) == before
    (tmp_path / "out" / PARTS / f"{tasks[0].key()}.json").write_text('{"status": "do')
    assert left_over(tasks, tmp_path / "out") == tasks[:1]
    assert not (tmp_path / "out" / FAILED).exists()


def test_a_slide_that_every_worker_dies_of_fails_and_the_others_are_done(tmp_path):
    names = ["a.png", "poison.png", "b.png"]
    tasks = [Task(str(picture(tmp_path / name)), ("Is there tumour?",)) for name in names]
    told = {one["key"]: one for one in run_batch(tasks, copilots(tmp_path), tmp_path / "out")}
    assert [told[task.key()]["status"] for task in tasks] == ["done", "failed", "done"]
    assert told[tasks[1].key()]["error"].startswith("poison.png: 3 workers died of it")
    assert left_over(tasks, tmp_path / "out") == tasks[1:2]
    assert not list((tmp_path / "out" / PARTS).glob("*.begun"))


def test_kills_of_earlier_runs_are_no_deaths_of_this(tmp_path):
    task = Task(str(picture(tmp_path / "a.png")), ("Is there tumour?",))
    (tmp_path / PARTS).mkdir()
    row = vars(task) | {"questions": list(task.questions)}
    for name, status in (("earlier", "done"), ("this", "failed")):
        (tmp_path / PARTS / f"{task.key()}.begun").write_text(json.dumps({"run": name, "times": 3}))
        assert SlideWorker(copilots(tmp_path), str(tmp_path), name="this")(row)["status"] == status


def test_a_run_that_cannot_go_on_ends_with_one_line_and_keeps_what_is_done(tmp_path):
    def no_copilot():
        raise InputError("weights/mini: no such folder")

    task = Task(str(picture(tmp_path / "a.png")), ("Is there tumour?",))
    with pytest.raises(SlidekickError, match="weights/mini: no such folder"):
        list(run_batch([task], no_copilot, tmp_path / "out"))
    blocked = tmp_path / "blocked"
    (blocked / PARTS / f"{task.key()}.json").mkdir(parents=True)
    with pytest.raises(SlidekickError, match="cannot write"):
        list(run_batch([task], copilots(tmp_path), blocked))
    assert left_over([task], tmp_path / "out") == [task]


def test_a_table_gives_tasks(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("slide,case,mpp,question\na.svs,one,0.5,\nsub/b.svs,one,,How much stroma?\n")
    assert read_table(table, ["Is there tumour?"]) == [
        Task(str(tmp_path / "a.svs"), ("Is there tumour?",), "one", 0.5),
        Task(str(tmp_path / "sub/b.svs"), ("How much stroma?",), "one", None),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file\na.svs\n", "no column named slide"),
        ("slide\n", "no column named slide"),
        ("slide,mpp,question\na.svs,wide,What?\n", r"cases.csv:2: mpp 'wide'"),
        ("slide,question\na.svs,\n", r"cases.csv:2: no question"),
        ("slide,question\n,What?\n", r"cases.csv:2: no slide"),
        ("slide,question\n   ,What?\n", r"cases.csv:2: no slide"),
    ],
)
def test_a_table_that_tells_too_little_is_refused_with_its_line(tmp_path, text, told):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        read_table(tmp_path / "cases.csv", [])
