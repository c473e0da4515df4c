"""Many slides, many workers: each slide is surveyed once and asked everything, on one machine or on a Ray cluster.

A slide is the unit of work. What came of it is written by its worker, whole or not at all, before it is reported; so
whatever is killed, a second run goes on with the slides that are missing. A slide that cannot be read is a row with its
reason and not the end of the run; what fails otherwise is tried again, and then put on the list of failures. Ray Data
(actor pools) hands out the work, replaces workers that die and gives their slide to another; a slide that three of them
died of is failed too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slidekick.data.errors import InputError, OutputError, SlidekickError, first_line
from slidekick.data.files import content_key, write_atomic

PARTS, RESULTS, FAILED = "parts", "results.parquet", "failed.csv"
DONE, UNREADABLE, FAILED_STATUS = "done", "unreadable", "failed"
STOPPED = "stopped"  # told of no slide: the run cannot go on
RETRIES = 2  # further tries of a slide that failed for another reason than its own, or took its worker with it
MOST_ROWS = 1_000_000  # of a table


@dataclass(frozen=True)
class Task:
    """A slide and what is asked of it. slide: its path as given. case: whose it is, "" where that is not said. mpp:
    µm per pixel, where the file states none."""

    slide: str
    questions: tuple[str, ...]
    case: str = ""
    mpp: float | None = None

    def key(self, maker: str = "") -> str:
        """Names the task's part: by path, what the file holds, questions, scale and maker, so that another question, or
        another model, is another task. maker: who answers, as a text."""
        try:
            held = content_key(self.slide)
        except OSError:  # not there yet, or a folder
            held = ""
        text = json.dumps([os.path.abspath(self.slide), held, maker, *self.questions, self.mpp])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def read_table(file: Path, questions: Sequence[str]) -> list[Task]:
    """Tasks of a CSV with a column `slide`, and `case`, `mpp` and `question` where it has them; other columns are
    passed over. Paths are relative to the table. Raises InputError (file:line)."""
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a CSV table ({error})") from error
    if not rows or "slide" not in rows[0]:
        raise InputError(f"{file}: no column named slide; give a CSV whose first line names its columns")
    if len(rows) > MOST_ROWS:
        raise InputError(f"{file}: {len(rows)} rows; give {MOST_ROWS} at most")
    tasks = []
    for number, row in enumerate(rows, 2):
        own = (row.get("question") or "").strip()
        asked = (own,) if own else tuple(questions)
        slide, case = ((row.get(name) or "").strip() for name in ("slide", "case"))
        if not slide or not asked:
            raise InputError(f"{file}:{number}: no {'question' if slide else 'slide'}; fill it in, or give --ask")
        tasks.append(Task(str(file.parent / slide), asked, case, _mpp(row, file, number)))
    return tasks


def _mpp(row: Mapping[str, str], file: Path, number: int) -> float | None:
    written = (row.get("mpp") or "").strip()
    try:
        value = float(written) if written else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 < value < 1000:
        raise InputError(f"{file}:{number}: mpp {written!r} is no scale; give µm per pixel, such as 0.5")
    return value


class SlideWorker:
    """Loads the copilot once, then answers slide after slide. make: gives the copilot; out: the run's folder; name:
    the run's, by which the deaths of its workers are told from kills of earlier ones; maker: see `Task.key`."""

    def __init__(self, make: Callable[[], object], out: str, name: str = "", maker: str = "") -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # which all that computes here looks at when it is loaded
        self.out, self.name, self.maker, self.broken = Path(out), name, maker, ""
        try:
            self.copilot = make()
        except SlidekickError as error:
            self.broken = str(error)

    def __call__(self, row: dict) -> dict:
        """row: a `Task` as a dict. Returns what stands in the part, without the answers: {"key", "status", "error"};
        the status is `STOPPED` where there is no copilot, or nothing can be written."""
        task = Task(row["slide"], tuple(row["questions"]), row["case"], row["mpp"])
        key = task.key(self.maker)
        try:
            status, error = (STOPPED, self.broken) if self.broken else self._kept(task, key)
        except OutputError as problem:
            status, error = STOPPED, str(problem)
        return {"key": key, "status": status, "error": error}

    def _kept(self, task: Task, key: str) -> tuple[str, str]:
        """Work on a slide and write its part. Raises OutputError."""
        begun = self.out / PARTS / f"{key}.begun"  # stays where the worker dies
        if (deaths := self._deaths(begun)) > RETRIES:
            name = Path(task.slide).name
            error = f"{name}: {deaths} workers died of it, for want of memory maybe; try it with fewer --workers"
            status, rows = FAILED_STATUS, []
        else:
            write_atomic(begun, json.dumps({"run": self.name, "times": deaths + 1}))
            status, error, rows = self._tried(task)
        part = {"task": asdict(task), "status": status, "error": error, "rows": rows}
        write_atomic(self.out / PARTS / f"{key}.json", json.dumps(part))
        begun.unlink(missing_ok=True)
        return status, error

    def _deaths(self, begun: Path) -> int:
        """How many workers of this run began a slide and did not end it."""
        try:
            told = json.loads(begun.read_text())
            return int(told["times"]) if told["run"] == self.name else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _tried(self, task: Task) -> tuple[str, str, list[dict]]:
        for attempt in range(RETRIES + 1):
            status, error, rows = self._attempt(task)
            if status != FAILED_STATUS:
                break
            time.sleep(0.1 * 4**attempt)
        return status, error, rows

    def _attempt(self, task: Task) -> tuple[str, str, list[dict]]:
        from slidekick.data.slide import open_slide

        try:
            begun = time.perf_counter()
            with open_slide(task.slide) as slide:
                slide.state_scale(task.mpp)
                survey = self.copilot.survey(slide)
                answers = [self.copilot.ask(survey, question) for question in task.questions]
            seconds = round(time.perf_counter() - begun, 2)
            return DONE, "", [_row(task, answer, len(survey.tiles), seconds) for answer in answers]
        except SlidekickError as error:
            return UNREADABLE, str(error), []
        except Exception as error:  # one slide must not end a run of thousands
            return (
                FAILED_STATUS,
                f"{type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1].name})",
                [],
            )


def _row(task: Task, answer, tiles: int, seconds: float) -> dict:
    shares = [item.value for item in answer.evidence if item.kind == "area_fraction" and item.found]
    counts = [item.value for item in answer.evidence if item.kind == "count" and item.found]
    return {
        "slide": Path(task.slide).name,
        "case": task.case,
        "question": answer.question,
        "short": answer.short,
        "text": answer.text,
        "confidence": float(answer.confidence),
        "area_fraction": shares[0] if shares else None,
        "count": counts[0] if counts else None,
        "tiles": tiles,
        "seconds": seconds,
        "warnings": "; ".join(answer.warnings),
        "answer": json.dumps(answer.to_dict()),
    }


def left_over(tasks: Sequence[Task], out: Path, maker: str = "") -> list[Task]:
    """Tasks without a finished part; those that failed or could not be read are tried anew: somebody may have seen to
    them. maker: see `Task.key`."""
    parts = {task: _part(out, task, maker) for task in tasks}
    return [task for task, part in parts.items() if part is None or part["status"] != DONE]


def _part(out: Path, task: Task, maker: str) -> dict | None:
    try:
        part = json.loads((out / PARTS / f"{task.key(maker)}.json").read_text())
        return part if {"status", "error", "rows"} <= part.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def run_batch(
    tasks: Sequence[Task],
    make: Callable[[], object],
    out: Path,
    workers: int = 1,
    address: str | None = None,
    maker: str = "",
) -> Iterator[dict]:
    """Work through the tasks and yield {"key", "status", "error"} of each as it is done.

    tasks: those that are left, as `left_over` tells; where there are none, nothing is started. make: gives a worker's
    copilot; it is sent to the workers. workers: how many at once, each with a core of its own. address: of a Ray
    cluster, whose machines must see the same paths; None: on this machine alone. maker: see `Task.key`. Raises
    InputError where no cluster answers, SlidekickError where the run cannot go on; what is done is kept.
    """
    if not tasks:
        return
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    ray = _started(workers, address)
    try:
        import ray.data

        rows = [{**asdict(task), "questions": list(task.questions)} for task in tasks]
        # A block a slide, so that none waits behind a large one.
        slides = ray.data.from_items(rows, override_num_blocks=len(rows))
        done = slides.map(
            SlideWorker,
            fn_constructor_args=(make, str(out.resolve())),
            fn_constructor_kwargs={"name": secrets.token_hex(8), "maker": maker},
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
            num_cpus=1,
        )
        for row in done.iter_batches(batch_size=1, batch_format="pandas", prefetch_batches=0):
            told = row.iloc[0].to_dict()
            if told["status"] == STOPPED:
                raise SlidekickError(told["error"])
            yield told
    except ray.exceptions.RayError as error:
        reason = first_line(error)
        raise SlidekickError(f"workers were lost ({reason}); run the same again, what is done is kept") from error
    finally:
        ray.shutdown()


def _started(workers: int, address: str | None):
    """Ray, connected or started here; nothing is reported anywhere, no dashboard, no page."""
    import logging

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray

    settings = {"logging_level": logging.ERROR, "log_to_driver": False, "ignore_reinit_error": True}
    if address is None:
        # One more than the workers hold for good, or nothing is left to hand them their slides.
        ray.init(address="local", num_cpus=workers + 1, include_dashboard=False, **settings)
    else:
        try:
            ray.init(address=address, **settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address!r} ({first_line(error, 100)})") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = RETRIES
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


def collect(tasks: Sequence[Task], out: Path, maker: str = "") -> tuple[Path, Path | None, int]:
    """Write results.parquet over all parts, and failed.csv where slides failed; in the order of the tasks.

    Returns both paths, None for a list that would be empty, and how many slides failed. maker: see `Task.key`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [(task, _part(out, task, maker)) for task in dict.fromkeys(tasks)]
    # A slide that stands in the table for two cases was asked once.
    rows = [{**row, "case": task.case} for task, part in parts if part for row in part["rows"]]
    schema = pa.schema(
        [(name, pa.string()) for name in ("slide", "case", "question", "short", "text")]
        + [(name, pa.float64()) for name in ("confidence", "area_fraction", "count")]
        + [("tiles", pa.int64()), ("seconds", pa.float64()), ("warnings", pa.string()), ("answer", pa.string())]
    )
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), stream)
    results = write_atomic(out / RESULTS, stream.getvalue())
    lost = [(task, part) for task, part in parts if part is None or part["status"] != DONE]
    if not lost:
        (out / FAILED).unlink(missing_ok=True)
        return results, None, 0
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["slide", "case", "status", "error"])
    for task, part in lost:
        table.writerow([task.slide, task.case, part["status"] if part else "lost", part["error"] if part else ""])
    return results, write_atomic(out / FAILED, text.getvalue()), len(lost)
