"""Reports and descriptions: what is known is said, what was measured is said, and nothing is contradicted.

Lines of labelled pictures, descriptions with measurements where the labels tell what there is, and report text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from slidekick.copilot.evidence import denies
from slidekick.copilot.sentences import measure_sentence
from slidekick.data.items import Item
from slidekick.rl.evaluation.tool_use import nothing_found, numbers_equal
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.concepts import phrasings
from slidekick.rl.instructions.description import DESCRIBE, reading
from slidekick.rl.instructions.report import Report
from slidekick.rl.instructions.stock import Stock, known_organ, known_stain
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.parsing import open_text, plain
from slidekick.rl.scores import rouge_l
from slidekick.rl.tasks.saying import entity_f1, means, says, supported
from slidekick.rl.tasks.task import Rollout, Row, Task, Truth

MEASURED, TEXTS = 0.5, 0.2  # shares of questions: pictures to be described with a measurement, and text alone
FACTS = 0.5  # of the reward, where there are facts that must be said; the rest is for the concepts named


class Reported:
    """Lines, descriptions and report text."""

    def __init__(self, stock: Stock) -> None:
        self.stock, self.family = stock, Report(stock)
        known = [(t.item, t.concept) for t in stock.truths.known.values() if t.mode != "absent"]
        self.measured: Balanced[tuple[Item, str]] = Balanced((i.set, concept, (i, concept)) for i, concept in known)
        self.common = Counter(concept for _, concept in known)
        self.texts: Balanced[Text] = self.family.texts
        self.lines: Balanced[Item] = self.family.pictures

    def __bool__(self) -> bool:
        return bool(self.texts or self.lines or self.measured)

    def make(self, rng: np.random.Generator) -> Row:
        """One question."""
        roll = rng.random()
        if self.texts and (roll < TEXTS or not (self.lines or self.measured)):
            text = self.texts.draw(rng)
            question, answer = one(rng, text.forms)
            return Row("report", text.set, question, _truth(answer, None))
        if self.measured and (not self.lines or roll < TEXTS + (1 - TEXTS) * MEASURED):
            item, concept = self.measured.draw(rng)
            there = self._there(item)
            if there or not self.lines:
                return self._described(rng, item, there, max(there, key=self.common.__getitem__, default=concept))
        item = self.lines.draw(rng)
        question, answer = (text_of(message) for message in self.family.ask(rng, item))
        facts = [fact for fact in (known_organ(item), known_stain(item), item.label) if fact and says(answer, fact)]
        return Row("report", item.set, question, _truth(answer, self._others(item), facts), (item.image,))

    def _there(self, item: Item) -> dict[str, dict]:
        """Concept -> what `measure` returns of it, of those that the picture holds."""
        truths = self.stock.truths
        told = {one.concept: truths.result("measure", item, one.concept) for one in truths.of_item[item.set, item.id]}
        return {concept: result for concept, result in told.items() if result and result["found"]}

    def _described(self, rng: np.random.Generator, item: Item, there: Mapping[str, dict], concept: str) -> Row:
        """`concept` is measured in the answer that is told: the commonest that is there, which is learnt first. The
        question names none, so any is right."""
        facts = [item.label] if item.label else [fact for fact in (known_organ(item), known_stain(item)) if fact]
        said = {one: measure_sentence(phrasings(one)[0].one, result) for one, result in there.items()}
        answers = [" ".join([*reading(item), sentence]) for sentence in said.values()]
        answer = " ".join([*reading(item), *([said[concept]] if said else [])]) or f"The picture shows {concept}."
        truth = _truth(answer, self._others(item), facts, there) | {
            "word": phrasings(concept)[0].one,
            "answers": answers,
        }
        return Row("report", item.set, one(rng, DESCRIBE), truth, (item.image,))

    def _others(self, item: Item) -> list[str]:
        """Labels that would contradict the item's."""
        return [label for label in self.stock.labelled.labels(item.set) if item.label and label != item.label]


def _truth(answer: str, others: list[str] | None, facts: Iterable[str] = (), measured: Iterable[str] = ()) -> dict:
    """others: labels that contradict; None where there is no picture that a tool could look at. measured: concepts of
    which one is to be measured."""
    return {"answer": answer, "others": others, "facts": list(facts), "measured": list(measured)}


def read(rollout: Rollout, truth: Truth) -> str | None:
    """The report's words."""
    return open_text(rollout.text) and rollout.text


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """uncontradicted · (`FACTS` · facts + (1 − `FACTS`) · concepts); uncontradicted · concepts where no fact is wanted.

    facts: share of the facts that are said: label, organ and stain, word by word; and where the picture is known to
    hold concepts, whether a tool measured one of them and its number is said. concepts: `saying.entity_f1` with the
    likest right answer, one for each such concept.
    uncontradicted: 0 where another label of the set is said, else the share of sentences that the tools back or that
    are readings (`saying.supported`). `rouge_l` beside it is what evaluation reports.
    """
    concepts = max(entity_f1(said, answer) for answer in truth.get("answers") or [truth["answer"]])
    wanted = [float(says(said, fact)) for fact in truth["facts"]]
    if truth["measured"]:
        wanted.append(float(any(_measured(said, rollout, concept) for concept in truth["measured"])))
    facts = float(np.mean(wanted)) if wanted else 0.0
    value = FACTS * facts + (1 - FACTS) * concepts if wanted else concepts
    true = uncontradicted(said, rollout, truth)
    parts = {"concepts": concepts, "uncontradicted": true, "rouge_l": rouge_l(plain(said), plain(truth["answer"]))}
    return {"score": true * value, **parts} | ({"facts": facts} if wanted else {})


def uncontradicted(said: str, rollout: Rollout, truth: Truth) -> float:
    """See `score`. 1 for text that stands for itself, without a picture."""
    if truth["others"] is None:
        return 1.0
    rest = plain(said)
    # Another label within the right one, or within what a tool was called for, is not said of the picture.
    own = {plain(words) for words in (*truth["facts"], *(step.concept for step in rollout.steps))} - {""}
    for words in sorted(own, key=len, reverse=True):
        rest = re.sub(rf"(?<!\S){re.escape(words)}(?!\S)", ".", rest)
    if any(says(part, other) for part in rest.split(".") for other in truth["others"]):
        return 0.0
    return supported(said, rollout.steps)


def _measured(said: str, rollout: Rollout, concept: str) -> bool:
    """Whether a tool looked for the concept and what it returned is said."""
    ran = [step for step in rollout.steps if "found" in step.result]
    about = [step for step in ran if means(step.concept, concept)]
    if not about or (nothing_found([step.result for step in about]) and not denies(said)):
        return False
    return numbers_equal(said, [step.result for step in ran], [step.name for step in ran])


TASK = Task("report", Reported, read, score)
