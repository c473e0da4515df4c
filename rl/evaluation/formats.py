"""Questions out of files, and answers into them: our JSON lines, lmms-eval task YAML, VLMEvalKit TSV.

A YAML task may name fields or hold templates, over a local JSONL, JSON, CSV or TSV file; tasks that call Python
functions are refused, since nothing of a data set is run here. A TSV's pictures are base64 or paths. Written TSVs hold
the prediction beside each question, as VLMEvalKit's own result tables do.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from slidekick.data.configuration import read_yaml
from slidekick.data.errors import InputError, first_line
from slidekick.data.items import item_files
from slidekick.rl.evaluation.changes import NONE
from slidekick.rl.evaluation.questions import Question, given_question, report_question
from slidekick.rl.parsing import LETTERS

_SPLIT_KEYS = {"train": "training_split", "val": "validation_split", "test": "test_split"}  # as lmms-eval names them
REPORT_KEYS = ("report", "caption", "text")
TSV_COLUMNS = (
    "index", "image", "image_path", "question", *LETTERS, "answer", "category", "split", "group", "prediction", "hit",
)  # fmt: skip


def read_questions(place: Path, family: str, split: str, sets: Sequence[str] | None = None) -> list[Question]:
    """Questions of family vqa or report under `place`: a .tsv, a task .yaml, a .jsonl, a set, or a folder of sets.

    Lines without the family's fields are passed over; lines of another split too. Raises InputError, naming file and
    line, for what cannot be used.
    """
    suffix = place.suffix.lower()
    if suffix in (".tsv", ".yaml", ".yml") and family != "vqa":
        raise InputError(f"{place.name}: {suffix} files hold questions; evaluate them with vqa")
    if suffix == ".tsv":
        return list(_from_tsv(place, split))
    if suffix in (".yaml", ".yml"):
        return list(_from_task(place, split))
    return [one for file in item_files(place, sets) for one in _from_lines(file, family, split)]


def _from_lines(file: Path, family: str, split: str) -> Iterator[Question]:
    folder = file.resolve().parent
    name = folder.name if file.name == "items.jsonl" else file.stem
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        with _telling(f"{file}:{number}"):
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("not a JSON object")
            if _split(entry) != split:
                continue
            entry.setdefault("id", str(number))
            picture = _existing(folder, entry["image"]) if entry.get("image") else None
            if family == "vqa" and entry.get("question") and entry.get("answer") is not None:
                yield given_question(entry, name, picture)
            elif family == "report" and any(entry.get(key) for key in REPORT_KEYS):
                yield report_question(entry, name, picture)


class _telling:
    """Turns what is wrong with a line into an InputError that names it."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, InputError | GeneratorExit) or not isinstance(error, ValueError | KeyError | TypeError):
            return
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{self.place}: {reason}; mend or remove the line") from error


def _text(file: Path, errors: str = "strict") -> str:
    """What a file holds. Raises InputError where it cannot be read as UTF-8."""
    try:
        return file.read_text(encoding="utf-8", errors=errors)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); give a file of UTF-8 text") from error


def _split(row: dict) -> str:
    """The split of a line; one that names none is a test question."""
    named = str(row.get("split") or "test")
    return {"dev": "val", "validation": "val"}.get(named, named)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"picture {name!r} is not there")
    return path


def _rows(file: Path) -> list[dict]:
    """Rows of a local JSONL, JSON, CSV or TSV file."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a local JSONL, JSON, CSV or TSV file")
    if file.suffix.lower() in (".tsv", ".csv"):
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a picture in base64 is one field
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                return list(csv.DictReader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{file}: cannot be read as a table ({first_line(error)}); write it anew") from error
    text = _text(file)
    with _telling(str(file)):
        rows = (
            json.loads(text)
            if file.suffix.lower() == ".json"
            else [json.loads(r) for r in text.split("\n") if r.strip()]
        )
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("holds no rows")
        return rows


# ---- VLMEvalKit TSV


def _from_tsv(file: Path, split: str) -> Iterator[Question]:
    rows = _rows(file)
    pictures = {row.get("index"): row.get("image") for row in rows}
    for number, row in enumerate(rows, 2):
        with _telling(f"{file}:{number}"):
            if _split(row) != split:
                continue
            options = [row[letter] for letter in LETTERS if row.get(letter)]
            hint = f"{row['hint']}\n" if row.get("hint") else ""
            entry = {
                "id": row["index"],
                "question": hint + row["question"],
                "answer": row["answer"],
                "options": options,
            }
            entry["group"] = row.get("group") or row.get("image_path") or row["index"]
            yield given_question(entry, file.stem, _tsv_picture(row, pictures, file.resolve().parent))


def _tsv_picture(row: dict, pictures: dict, folder: Path) -> Path | bytes | None:
    if row.get("image_path"):
        return _existing(folder, row["image_path"])
    code = row.get("image")
    if code and code in pictures and len(code) < 64:  # the index of the row that holds the picture
        code = pictures[code]
    if not code:
        return None
    try:
        return base64.b64decode(code, validate=True)
    except binascii.Error as error:
        raise ValueError("the picture is no base64") from error


def to_tsv(rows: Iterable[dict], pictures: Mapping[str, Path | bytes | None], folder: Path) -> str:
    """Sample rows (`samples.jsonl`) as a VLMEvalKit table, one line a question that was asked as it is.

    pictures: a row's id -> its picture; paths are written as seen from `folder`, bytes as base64. Answers of choices
    are letters. Whatever reads VLMEvalKit's TSVs reads it, `read_questions` included.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, TSV_COLUMNS, delimiter="\t", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        if row["change"] == NONE:
            picture = pictures.get(row["id"])
            options = dict(zip(LETTERS, row["options"], strict=False)) if row["kind"] == "choice" else {}
            writer.writerow(
                options
                | {"index": row["id"], "category": row["set"], "split": row["split"], "group": row["group"]}
                | {"image": base64.b64encode(picture).decode() if isinstance(picture, bytes) else ""}
                | {"image_path": os.path.relpath(picture, folder) if isinstance(picture, Path) else ""}
                | {"question": row["question"], "answer": _cell(row["truth"])}
                | {"prediction": row["answer"], "hit": int(row["right"] == 1)}
            )
    return stream.getvalue()


def _cell(value: object) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


# ---- lmms-eval task YAML


def _from_task(file: Path, split: str) -> Iterator[Question]:
    if file.is_file() and "!function" in _text(file, "replace"):
        raise InputError(f"{file}: the task calls Python functions, which are not run here; name fields or templates")
    task = read_yaml(file)
    if not isinstance(task, dict) or not {"doc_to_text", "doc_to_target"} <= set(task):
        raise InputError(f"{file}: no lmms-eval task; it needs dataset_path, doc_to_text and doc_to_target")
    folder = file.resolve().parent
    data = _task_data(file, task, split)
    for number, doc in enumerate(_rows(data) if data else [], 1):
        with _telling(f"{file}: row {number}"):
            if not isinstance(_listed(task), dict) and _split(doc) != split:
                continue
            options = _options(task, doc)
            answer = field(task["doc_to_target"], doc)
            if options and not isinstance(answer, str):
                answer = _placed(int(answer), options)
            name = str(task.get("task") or file.stem)
            entry = {
                "id": str(doc.get("id") or number),
                "group": doc.get("group"),
                "answer": answer,
                "options": options,
            }
            entry["question"] = field(task["doc_to_text"], doc)
            yield given_question(entry, name, _visual(task, doc, folder))


def _task_data(file: Path, task: dict, split: str) -> Path | None:
    """The local file behind a task: data_files or dataset_path; None where it lists none for the split."""
    files = _listed(task) or task.get("dataset_path")
    if isinstance(files, dict):
        files = files.get(task.get(_SPLIT_KEYS[split], split))
        if files is None:
            return None
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if not isinstance(files, str):
        raise InputError(f"{file}: dataset_path names no local file; put a JSONL beside it")
    return file.resolve().parent / files


def _listed(task: dict):
    return (task.get("dataset_kwargs") or {}).get("data_files")


def field(form: object, doc: dict):
    """What a `doc_to_...` entry says of a row: the field it names, or a Jinja template filled in, in a sandbox."""
    if not isinstance(form, str):
        return form
    if form in doc:
        return doc[form]
    if "{" not in form:
        raise ValueError(f"the row has no field {form!r}")
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    try:
        return SandboxedEnvironment(undefined=StrictUndefined).from_string(form).render(**doc)
    except TemplateError as error:
        raise ValueError(f"the template cannot be filled in ({error})") from error


def _options(task: dict, doc: dict) -> list[str]:
    form = task.get("doc_to_choice")
    if form is None:
        return []
    options = field(form, doc) if isinstance(form, str) else form
    if not isinstance(options, list):
        raise ValueError("doc_to_choice gives no list of options")
    return [str(one) for one in options]


def _placed(place: int, options: list[str]) -> str:
    """The option at a place, counted from 0. Raises ValueError where there is none."""
    if not 0 <= place < len(options):
        raise ValueError(f"the answer is option {place}, and there are {len(options)}, counted from 0")
    return options[place]


def _visual(task: dict, doc: dict, folder: Path) -> Path | None:
    if not task.get("doc_to_visual"):
        return None
    named = field(task["doc_to_visual"], doc)
    named = named[0] if isinstance(named, list) and len(named) == 1 else named
    if not isinstance(named, str):
        raise ValueError("doc_to_visual gives no path of one picture")
    return _existing(folder, named)
