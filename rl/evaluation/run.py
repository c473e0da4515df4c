"""One evaluation from plan to result: questions, answers, yardsticks, figures, and what made them."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from slidekick.copilot.answer import RESEARCH_USE
from slidekick.copilot.confidence import Confidence, fit_confidence
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.sight import Taught, fit_taught
from slidekick.data.errors import InputError
from slidekick.data.items import Item, load_items
from slidekick.rl import scores
from slidekick.rl.evaluation import honesty, task_questions
from slidekick.rl.evaluation.asking import Asker, Journal, ask_of, digest
from slidekick.rl.evaluation.changes import BLANK, KINDS, NONE, WORDING, kinds_of
from slidekick.rl.evaluation.formats import read_questions
from slidekick.rl.evaluation.measures import RISK, SMALL, Measure, abstaining, consistency, figures, flat, measures_of
from slidekick.rl.evaluation.questions import (
    Question,
    classify_questions,
    count_questions,
    detect_questions,
    is_labelled,
    labels_of,
    need,
    sample,
    sample_each,
)
from slidekick.rl.evaluation.tool_questions import tool_questions
from slidekick.rl.evaluation.tool_use import judged
from slidekick.rl.evaluation.untold import fit_untold
from slidekick.rl.instructions.concepts import vocabulary
from slidekick.rl.instructions.held_out import pixel_hash
from slidekick.rl.parsing import PARSER, parse

SCHEMA = "slidekick.evaluate/3"
DISTURBED = 3  # pictures of each set that are asked about in other words, and with --perturb turned and restained
BLANKED = 200  # questions that came with the data, at most, that are asked again without their picture


@dataclass(frozen=True)
class Plan:
    """What is evaluated and how.

    limit: at most so many questions, the same ones each time. risk: see `measures`. beside: whether simple classifiers,
    a blank picture and other wordings are asked too.
    """

    family: str
    data: Path
    split: str = "test"
    sets: tuple[str, ...] | None = None
    limit: int | None = None
    risk: float = RISK
    perturb: bool = False
    text_only: bool = False
    beside: bool = True


@dataclass(frozen=True)
class Result:
    """summary: JSON-ready, `metrics` among it. rows: one a question and change. questions: by id."""

    summary: dict
    rows: list[dict]
    questions: dict[str, Question]


def evaluate(copilot: Copilot, plan: Plan, journal: Path | None = None) -> Result:
    """Ask and score everything that the plan names.

    journal: file of answers, where an interrupted run takes up again. Raises InputError where there is nothing to ask.
    """
    begun = time.perf_counter()
    asker = Asker(copilot, Journal(journal))
    questions, train, held = _questions(plan)
    asked = [replace(one, picture=None) for one in questions] if plan.text_only else questions
    rows = ask_rows(asker, asked, plan.split, copilot.confidence)
    more: dict[str, Measure] = {}
    if plan.beside and not plan.text_only:
        _text_only(asker, questions, rows, plan)
    if plan.family == "classify":
        if plan.beside:
            _yardsticks(copilot, questions, rows, train, held)
            rows, more = _consistency(asker, asked, rows, plan, copilot.confidence)
        if copilot.confidence and any(row["logits"] for row in rows):
            more |= abstaining(rows, copilot.confidence)
    elif plan.family == "vqa":
        _commonest(rows, plan)
    elif plan.family == "tools":
        words = getattr(copilot.segmentor, "vocabulary", None) or vocabulary()
        rows = [judged(row, words) for row in rows]
    elif plan.family == "honesty":
        rows = [honesty.judged(row) for row in rows]
    elif plan.family == "tasks":
        rows = [task_questions.judged(row) for row in rows]
    told = figures(rows, measures_of(rows, plan.risk) | more)
    summary = {
        "schema": SCHEMA,
        "what": plan.family,
        "notice": RESEARCH_USE,
        "model": asker.model,
        "parser": PARSER,
        "split": plan.split,
        "metrics": flat(told),
        "leaks": _leaks(plan, questions, train, held),
        "warnings": _warnings(asked),
        "without_picture": sum(one.picture is None for one in asked),
        "settings": asdict(plan) | {"data": plan.data.name},
        "confidence": asdict(copilot.confidence) if copilot.confidence else None,
        "versions": copilot.versions,
        "commit": commit(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    return Result(summary, rows, {one.id: one for one in questions})


def calibrate(copilot: Copilot, plan: Plan, journal: Path | None = None) -> Confidence:
    """Scales and thresholds of a copilot's model on the plan's val split, at the plan's risk.

    Raises InputError where the model cannot weigh answers, or the val split has no labelled picture.
    """
    if not hasattr(copilot.engine, "options"):
        raise InputError(
            f"{copilot.engine.name}: a server does not weigh given answers; calibrate a model that runs here"
        )
    questions, _, _ = _questions(replace(plan, family="classify", split="val", limit=None))
    rows = ask_rows(Asker(copilot, Journal(journal)), questions, "val", None)
    truth = [row["options"].index(row["truth"]) for row in rows]
    turns = [(row["likelihood"], bool(row["own_words_right"])) for row in rows if row["likelihood"] is not None]
    alike = [row["likeness"] for row in rows] if all(row["likeness"] for row in rows) else None
    readings = sorted({tuple(row["options"]) for row in rows if len(row["options"]) > 1})
    logits = [row["logits"] for row in rows]
    return fit_confidence(logits, truth, turns, plan.risk, copilot.weights, alike, readings)


def fit_sight(copilot: Copilot, plan: Plan) -> Taught:
    """Which pictures are like those of the plan's train split, by what the copilot's tower makes of them; val sets the
    threshold. And which questions no picture answers. Raises InputError where a split has too few."""
    from PIL import Image
    from tqdm import tqdm

    maps = []
    for split in ("train", "val"):
        pictures = list(dict.fromkeys(item.image for item in load_items(plan.data, plan.sets, split)))
        bar = tqdm(pictures, desc=f"{split} pictures", mininterval=5)
        maps.append([copilot.engine.pooled(np.asarray(Image.open(path).convert("RGB"))) for path in bar])
    labels = sorted({item.label for item in load_items(plan.data, plan.sets, "train") if is_labelled(item)})
    asked, bias = fit_untold(copilot.engine.question, labels)
    return replace(fit_taught(*(np.reshape(some, (len(some), -1)) for some in maps)), asked=asked, bias=bias)


def _questions(plan: Plan) -> tuple[list[Question], list[Item], list[Item]]:
    """The plan's questions, and where they come from labelled items the train and held-out ones."""
    if plan.family in ("vqa", "report"):
        questions = read_questions(plan.data, plan.family, plan.split, plan.sets)
        return sample(need(questions, plan.data, plan.family), plan.limit), [], []
    train, held = (load_items(plan.data, plan.sets, split) for split in ("train", plan.split))
    if plan.family == "classify":
        train, held = ([item for item in items if is_labelled(item)] for items in (train, held))
        made = classify_questions(held, labels_of((*train, *held)))
    elif plan.family == "tools":
        made = tool_questions(held, plan.limit)
    elif plan.family == "honesty":
        made = honesty.honesty_questions(held, plan.limit)
    elif plan.family == "tasks":
        made = task_questions.task_questions(held, plan.limit)
    else:
        made = {"detect": detect_questions, "count": count_questions}[plan.family](held)
    return sample(need(made, plan.data, plan.family), plan.limit), train, held


def _warnings(questions: Sequence[Question]) -> list[str]:
    """Sets whose figures say little by themselves, or add no width to an interval."""
    told, groups = [], defaultdict(list)
    for one in questions:
        if one.family not in ("tools", "tasks", "honesty"):  # whose intervals are not drawn set by set
            groups[one.set].append(one.group)
    for name, members in groups.items():
        if len(set(members)) == 1:
            told.append(f"{name}: one patient or source only; it adds nothing to the width of intervals")
        elif len(members) < SMALL:
            told.append(f"{name}: {len(members)} questions only")
    return told


# ---- rows


def ask_rows(
    asker: Asker, questions: Sequence[Question], split: str, confidence: Confidence | None, change: str = NONE
) -> list[dict]:
    """The questions put, and one row each (docs/evaluation.md lists its keys)."""
    said = asker.ask(
        [ask_of(one, change) for one in questions], f"{change} pictures" if change != NONE else "questions"
    )
    return [row_of(*one, split, change, confidence) for one in zip(questions, said, strict=True)]


def row_of(question: Question, said: dict, split: str, change: str, confidence: Confidence | None) -> dict:
    """One row of samples.jsonl: the question, the answer as said and as read, and what it is worth."""
    table = None
    if said["logits"] is not None:
        scale = confidence or Confidence()
        table = [round(float(p), 6) for p in scale.probabilities(said["logits"], said["likeness"])]
    answer = said["own_words"] if table is None else question.options[table.index(max(table))]
    read = parse(question.kind, answer, question.options)
    if question.kind == "boxes" and said["boxes"] is not None:
        read = [tuple(box) for box in said["boxes"]]
    score = _score(question, read)
    own = parse(question.kind, said["own_words"], question.options)
    # Said to the open question: a label that was taught gives way to the likeliest of its rivals.
    settled = read if own in question.options else own
    picture = question.picture
    return {
        "id": question.id,
        "set": question.set,
        "split": split,
        "group": question.group,
        "family": question.family,
        "kind": question.kind,
        "change": change,
        "question": question.question,
        "options": list(question.options),
        "truth": question.truth,
        "picture": picture.name if isinstance(picture, Path) else None,
        "picture_sha256": digest(picture) if picture is not None else None,
        "answer": answer,
        "said": read,
        "right": float(score == 1),
        "own_words": said["own_words"],
        "own_words_right": float(own == question.truth) if table else None,
        "settled_right": float(settled == question.truth) if table else None,
        "score": score,
        "rouge_l": scores.rouge_l(read, question.truth) if question.family == "report" else None,
        "supported": said["supported"],
        "confidence": max(table) if table else said["probability"],
        "likelihood": said.get("likelihood"),
        "probabilities": table,
        "logits": said["logits"],
        "likeness": said["likeness"],
        "tool": said["tool"],
        "calls": said["calls"],
        "replaced": said["replaced"],
        "complete": said["complete"],
        "parser": PARSER,
        **question.notes,
    }


def _score(question: Question, read) -> float:
    """0–1: boxes by AP50, open text by words, everything else right or wrong."""
    if question.kind == "boxes":
        return scores.average_precision_50(read, question.truth)
    if question.kind == "text":
        return scores.token_f1(read, question.truth)
    return float(read is not None and read == question.truth)


# ---- what is asked beside


def _text_only(asker: Asker, questions: Sequence[Question], rows: Sequence[dict], plan: Plan) -> None:
    """Whether each row is right without its picture, as `text_only_right`.

    Every classification (equal words and a blank picture are asked once), and a sample of what came with the data.
    """
    if plan.family not in ("classify", "vqa"):
        return
    chosen = {one.id for one in (questions if plan.family == "classify" else sample(questions, BLANKED))}
    chosen = {one.id for one in questions if one.id in chosen and one.picture is not None}
    blanked = ask_rows(asker, [one for one in questions if one.id in chosen], plan.split, None, BLANK)
    right = {row["id"]: row["right"] for row in blanked}
    for row in rows:
        row["text_only_right"] = right.get(row["id"])


def _yardsticks(copilot: Copilot, questions, rows: Sequence[dict], train, held) -> None:
    from slidekick.rl.evaluation.yardsticks import Features, guesses

    items = {f"{item.set}/{item.id}": item for item in held}
    given = guesses(Features(copilot), train, [items[one.id] for one in questions])
    for name, labels in given.items():
        for row, label in zip(rows, labels, strict=True):
            row[name], row[f"{name}_right"] = label, float(label == row["truth"])


def _consistency(asker: Asker, questions, rows: list[dict], plan: Plan, confidence) -> tuple[list[dict], dict]:
    """Rows with those of a bounded sample in other words, and with --perturb of changed pictures, added."""
    chosen = sample_each([one for one in questions if one.picture is not None], DISTURBED)
    reworded = [(one, number) for one in chosen for number in range(len(one.wordings))]
    said = asker.ask([ask_of(one, words=one.wordings[number]) for one, number in reworded], "other words")
    for (one, number), answer in zip(reworded, said, strict=True):
        row = row_of(one, answer, plan.split, f"{WORDING}{number + 2}", confidence)
        rows = [*rows, row | {"question": one.wordings[number]}]
    if plan.perturb:
        for change in (change for changes in KINDS.values() for change in changes):
            rows = [*rows, *ask_rows(asker, chosen, plan.split, confidence, change)]
    return rows, consistency(rows, kinds_of(rows))


def _commonest(rows: Sequence[dict], plan: Plan) -> None:
    """Whether the commonest answer of the train split's questions of the same set and kind is right."""
    known = defaultdict(list)
    for one in read_questions(plan.data, "vqa", "train", plan.sets) if plan.split != "train" else ():
        known[one.set, one.kind].append(one.truth)
    for row in rows:
        guess = scores.commonest(known[row["set"], row["kind"]])
        row["commonest_right"] = None if guess is None else float(guess == row["truth"])


def _leaks(plan: Plan, questions: Sequence[Question], train: Sequence[Item], held: Sequence[Item]) -> list[str]:
    """Held-out items that also occur in training; nothing to say of the train split itself."""
    if plan.split == "train":
        return []
    if plan.family in ("vqa", "report"):
        known = read_questions(plan.data, plan.family, "train", plan.sets)
        groups = {(one.set, one.group) for one in known}
        seen = {_shown(one.picture) for one in known if one.picture is not None}
        return [
            one.id
            for one in questions
            if (one.set, one.group) in groups or (one.picture is not None and _shown(one.picture) in seen)
        ]
    from slidekick.rl.evaluation.yardsticks import leaks

    return leaks(train, held)


def _shown(picture: Path | bytes) -> bytes | str:
    """What a picture is known by: its pixels, or its bytes where they are none that can be read."""
    try:
        return pixel_hash(picture)
    except OSError:
        return digest(picture)


def commit() -> str | None:
    """The commit of the code, "+" added where files differ from it; None where it is not in a repository."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:  # installed into somebody else's repository
        return None
    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and git("status", "--porcelain", "--untracked-files=no") else head
