"""Labels turned into conversations: what a person would ask of a picture, and what the generalist should say or call.

A question about what the picture *is* is answered from the picture; a question about what is *there*, how many and
how much is answered by calling a tool and repeating what it measured. Tool results are drawn at random here: the
lesson is to call the right tool and to repeat its numbers, not to know them. Deterministic in the seed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slidekick.data.items import Item
from slidekick.grounding import measure

# The first wording of a set is the one that evaluation asks.
QUESTIONS = {
    "aml_cytomorphology": ("Which blood cell is this, in detail?", "Name this cell and its stage."),
    "breakhis_400x": ("Which breast lesion is this?", "What is the diagnosis of this breast tissue?"),
    "chula_rbc_crops": ("Which red blood cell shape is this?", "What is the shape of this red blood cell?"),
    "crc_val_he": ("Which colorectal tissue is this?", "What tissue of the colon is this?"),
    "ebhi_seg": ("Which colorectal lesion is this?", "What is the diagnosis of this colon biopsy?"),
    "gbm40": ("Which brain tumour is this?", "What is the diagnosis of this brain tissue?"),
    "glas": ("What is the grade of these glands?", "How are these colon glands graded?"),
    "herlev_pap": ("Which cervical cell is this?", "What kind of cervical cell is this?"),
    "kather2016_sample": ("Which tissue texture is this?", "Which colorectal texture class is this?"),
    "lbc_pap": ("What is the Bethesda category of this smear?", "How is this cervical smear classified?"),
    "lc25000_colon": ("What does this colon tissue show?", "Is this colon tissue benign or malignant?"),
    "lc25000_lung": ("What does this lung tissue show?", "What is the diagnosis of this lung tissue?"),
    "malaria_cells": ("Does this red blood cell hold a parasite?", "What is the state of this red blood cell?"),
    "ocdc": ("What does this oral tumour show?",),
    "oral_oscc": ("What does this oral tissue show?", "What is the diagnosis of this oral tissue?"),
    "osteosarcoma": ("What does this bone tissue show?", "Is there viable tumour in this bone tissue?"),
    "pbc_wbc_attributes": ("Which blood cell is this?", "What blood cell does the picture show?"),
    "prostate_gleason": ("What is the Gleason pattern?", "Which Gleason pattern does this prostate show?"),
    "wbc_zheng": ("Which white blood cell is this?", "What type of white blood cell is this?"),
}
GENERAL = ("What does this picture show?", "What is this?", "What do you see?", "What is shown here?")
YES_NO = ("Is this {}?", "Does this picture show {}?")
OPTIONS = ("Which is it: {}?", "Choose one: {}.")
ORGAN = ("Which organ is this?", "Where in the body is this tissue from?")
STAIN = ("Which stain is this?", "How is this stained?")

COUNT = (
    "How many {many} are there?",
    "Count the {many}.",
    "How many {many} do you see?",
    "How many {many}?",
    "What is the number of {many}?",
)
THERE = (
    "Is there {a} in this picture?",
    "Is there {a}?",
    "Is there any {one}?",
    "Are there {many}?",
    "Do you see {a}?",
    "Are there any {many} here?",
    "Is {a} present?",
)
WHERE = (
    "Where is the {one}?",
    "Where are the {many}?",
    "Show the {many}.",
    "Outline the {one}.",
    "Segment the {many}.",
    "Where do you see {many}?",
    "Mark the {one}.",
    "Find the {many}.",
)
MEASURE = (
    "Measure the {many}.",
    "How large are the {many}?",
    "What area does the {one} cover?",
    "How much {one} is there?",
    "How big is the {one}?",
)
DESCRIBE = ("Describe this picture.", "Describe the picture.", "Describe what you see.", "Give a description.")

# name: plural. The tools' argument is the singular; every known concept's synonyms are mapped to its name.
PLURALS = {
    "nucleus": "nuclei", "gland": "glands", "tumour": "tumours", "stroma": "stroma", "glomerulus": "glomeruli",
    "blood vessel": "blood vessels", "fat vacuole": "fat vacuoles", "white blood cell": "white blood cells",
    "lymphocyte": "lymphocytes", "positive cell": "positive cells", "benign gland": "benign glands",
    "malignant gland": "malignant glands", "colorectal polyp": "colorectal polyps",
    "epithelial cell nucleus": "epithelial cell nuclei", "macrophage nucleus": "macrophage nuclei",
    "neutrophil nucleus": "neutrophil nuclei", "cytoplasm": "cytoplasm",
    "Gleason pattern 3": "Gleason pattern 3", "Gleason pattern 4": "Gleason pattern 4",
}  # fmt: skip
REGIONS = (
    "tumour", "stroma", "blood vessel", "colorectal polyp", "cytoplasm", "Gleason pattern 3", "Gleason pattern 4",
)  # fmt: skip  # not counted: the tools give their area instead
SYNONYMS = {
    "cell nucleus": "nucleus", "crypt": "gland", "tumor": "tumour", "cancer": "tumour", "carcinoma": "tumour",
    "metastasis": "tumour", "connective tissue": "stroma", "vessel": "blood vessel", "artery": "blood vessel",
    "steatosis": "fat vacuole", "fat droplet": "fat vacuole", "leukocyte": "white blood cell",
    "brown cell": "positive cell",
}  # fmt: skip
# Words outside the vocabulary, so that the argument is copied and not guessed.
STRANGERS = (
    "mitosis mitoses, parasite parasites, granuloma granulomas, neuron neurons, hair follicle hair follicles, "
    "keratin pearl keratin pearls, apoptotic body apoptotic bodies, plasma cell plasma cells, eosinophil "
    "eosinophils, giant cell giant cells, nerve nerves, muscle fibre muscle fibres, "
    "bone spicule bone spicules, megakaryocyte megakaryocytes, adipocyte adipocytes, tubule tubules, psammoma "
    "body psammoma bodies, cilium cilia, fungus fungi, bacterium bacteria, worm worms, crystal crystals, "
    "pigment pigments, foreign body foreign bodies, tree trees, house houses, car cars, dog dogs, cat cats, "
    "boat boats, flower flowers, star stars, lymph node lymph nodes, mast cell mast cells, goblet cell goblet "
    "cells, islet islets, hepatocyte hepatocytes, podocyte podocytes, melanocyte melanocytes, red blood cell "
    "red blood cells, platelet platelets, sinusoid sinusoids, bile duct bile ducts, sebaceous gland sebaceous "
    "glands, thrombus thrombi, cyst cysts, abscess abscesses, osteoclast osteoclasts, "
    "chondrocyte chondrocytes, keratinocyte keratinocytes, basal cell basal cells, mesangial cell mesangial "
    "cells, schistosome schistosomes, amoeba amoebae, spore spores, asbestos body asbestos bodies, "
    "calcification calcifications, ganglion cell ganglion cells, axon axons, villus villi, alveolus alveoli, "
    "bronchus bronchi, follicle follicles"
)
PLACES = (*(place for row in measure.PLACES for place in row), measure.THROUGHOUT)

# Share of each task. Classes and readings need steps; the tools' few sentences are learnt from a quarter of them.
MIX = {
    "classify": 0.55,
    "yes_no": 0.10,
    "options": 0.05,
    "organ": 0.03,
    "stain": 0.02,
    "count": 0.08,
    "segment": 0.10,
    "measure": 0.07,
}


@dataclass(frozen=True)
class Instruction:
    """One conversation about one picture. messages: chat-template form, the picture as {"type": "image"}."""

    task: str
    set: str
    image: Path
    messages: list[dict]


def make_instructions(items: Sequence[Item], count: int, seed: int) -> list[Instruction]:
    """`count` conversations over `items`, balanced over tasks, sets and labels."""
    rng = np.random.default_rng(seed)
    drawer = _Drawer(items, rng)
    tasks = list(MIX)
    picks = rng.choice(len(tasks), size=count, p=list(MIX.values()))
    return [drawer.make(tasks[pick]) for pick in picks]


def question_for(item: Item) -> str:
    """The wording that evaluation asks of a labelled item's set."""
    return QUESTIONS[item.set][0] if item.set in QUESTIONS else GENERAL[0]


class _Drawer:
    def __init__(self, items: Sequence[Item], rng: np.random.Generator) -> None:
        self.rng = rng
        self.items = list(items)
        self.by_label: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
        for item in self.items:
            if item.label and item.set in QUESTIONS:
                self.by_label[item.set][item.label].append(item)
        self.sets = sorted(self.by_label)
        sizes = np.sqrt([sum(map(len, self.by_label[name].values())) for name in self.sets])
        self.set_weights = sizes / sizes.sum()
        self.tools: dict[str, Callable] = {"count": self._count, "segment": self._segment, "measure": self._measure}
        pairs = [phrase.strip().split() for phrase in STRANGERS.split(",")]
        self.strangers = [(" ".join(p[: len(p) // 2]), " ".join(p[len(p) // 2 :])) for p in pairs]

    def make(self, task: str) -> Instruction:
        if task in self.tools:
            item = self.items[self.rng.integers(len(self.items))]
            return Instruction(task, item.set, item.image, self.tools[task](item))
        item = self._labelled()
        if task in ("organ", "stain") and not getattr(item, task):
            task = "classify"  # nothing is learnt from "not stated"
        question, answer = getattr(self, f"_{task}")(item)
        return Instruction(task, item.set, item.image, [_user(question), _assistant(answer)])

    def _one(self, options: Sequence):
        return options[self.rng.integers(len(options))]

    def _labelled(self) -> Item:
        labels = self.by_label[self.sets[self.rng.choice(len(self.sets), p=self.set_weights)]]
        return self._one(labels[self._one(sorted(labels))])

    def _classify(self, item: Item) -> tuple[str, str]:
        wording = self.rng.random()
        own = QUESTIONS[item.set]
        question = self._one(GENERAL) if wording < 0.25 else own[0] if wording < 0.8 else self._one(own)
        return question, item.label

    def _other_labels(self, item: Item) -> list[str]:
        return [label for label in sorted(self.by_label[item.set]) if label != item.label]

    def _yes_no(self, item: Item) -> tuple[str, str]:
        others = self._other_labels(item)
        true = not others or self.rng.random() < 0.5
        named = item.label if true else self._one(others)
        return self._one(YES_NO).format(named), "yes" if true else "no"

    def _options(self, item: Item) -> tuple[str, str]:
        others = self._other_labels(item)
        chosen = [item.label, *self.rng.permutation(others)[:3]]
        shuffled = [str(label) for label in self.rng.permutation(chosen)]
        return self._one(OPTIONS).format(", ".join(shuffled)), item.label

    def _organ(self, item: Item) -> tuple[str, str]:
        return self._one(ORGAN), item.organ.split(" (")[0]

    def _stain(self, item: Item) -> tuple[str, str]:
        return self._one(STAIN), item.stain.split(" (")[0]

    def _concept(self) -> tuple[str, str, str, bool]:
        """Words as asked (singular, plural), the tool's argument, and whether it is known."""
        roll = self.rng.random()
        if roll < 0.45:
            name = self._one(sorted(PLURALS))
            return name, PLURALS[name], name, True
        if roll < 0.6:
            word = self._one(sorted(SYNONYMS))
            plural = word if word.endswith("is") else "cell nuclei" if word == "cell nucleus" else word + "s"
            return word, plural, SYNONYMS[word], True
        one, many = self._one(self.strangers)
        return one, many, one, False

    def _result(self, argument: str, known: bool, found: dict) -> dict:
        if not known:
            return {"found": False, "known": False, "nearest": self._one(sorted(PLURALS))}
        return {"found": True, **found} if self.rng.random() < 0.7 else {"found": False}

    def _number(self) -> int:
        return int(np.exp(self.rng.uniform(0, np.log(900))))

    def _area(self) -> str:
        return f"{self.rng.integers(1, 101)}%" if self.rng.random() < 0.95 else "<1%"

    def _count(self, item: Item) -> list[dict]:
        _, many, argument, known = self._concept()
        found = {"area": self._area()} if argument in REGIONS else {"count": self._number()}
        result = self._result(argument, known, found)
        return _tool_turns(
            self._one(COUNT).format(many=many), "count", argument, result, count_sentence(argument, result)
        )

    def _segment(self, item: Item) -> list[dict]:
        one, many, argument, known = self._concept()
        result = self._result(argument, known, {"area": self._area(), "where": self._one(PLACES)})
        asked = self.rng.random() < 0.5
        question = self._one(THERE if asked else WHERE).format(one=one, many=many, a=_article(one))
        return _tool_turns(question, "segment", argument, result, segment_sentence(argument, result, asked))

    def _measure(self, item: Item) -> list[dict]:
        describe = self.rng.random() < 0.4
        one, many, argument, known = ("", "", "nucleus", True) if describe else self._concept()
        found = {"count": self._number(), "area": self._area()}
        if argument in REGIONS:
            del found["count"]
        elif self.rng.random() < 0.5:
            found["diameter"] = f"{self.rng.uniform(3, 60):.1f} um"
        result = self._result(argument, known, found)
        sentence = measure_sentence(argument, result)
        if describe and item.label:
            sentence = f"The picture shows {item.label}. {sentence}"
        question = self._one(DESCRIBE) if describe else self._one(MEASURE).format(one=one, many=many)
        return _tool_turns(question, "measure", argument, result, sentence)


def _unknown(argument: str, result: dict) -> str:
    return f'"{argument}" is not in the vocabulary; nearest known: {result["nearest"]}.'


def _absent(argument: str) -> str:
    return f"No {argument} was found in this picture."


def _missing(argument: str, result: dict) -> str | None:
    if result["found"]:
        return None
    return _unknown(argument, result) if "nearest" in result else _absent(argument)


def count_sentence(argument: str, result: dict) -> str:
    """What is said after `count`."""
    if missing := _missing(argument, result):
        return missing
    if "count" not in result:
        return _covers(argument, result)
    one = result["count"] == 1
    named = argument if one else PLURALS.get(argument, argument)
    return f"There {'is' if one else 'are'} {result['count']} {named}."


def segment_sentence(argument: str, result: dict, asked: bool) -> str:
    """What is said after `segment`; asked: the question wants a yes or no first."""
    if missing := _missing(argument, result):
        return missing
    place = "throughout the picture" if result["where"] == "throughout" else f"in the {result['where']}"
    start = f"Yes: {argument}" if asked else argument.capitalize()
    return f"{start} was found, {place}, covering {result['area']} of the picture."


def measure_sentence(argument: str, result: dict) -> str:
    """What is said after `measure`."""
    if missing := _missing(argument, result):
        return missing
    if "count" not in result:
        return _covers(argument, result)
    one = result["count"] == 1
    named = f"{argument} was" if one else f"{PLURALS.get(argument, argument)} were"
    size = f", with a mean diameter of {result['diameter']}" if "diameter" in result else ""
    return f"{result['count']} {named} measured, covering {result['area']} of the picture{size}."


def _covers(argument: str, result: dict) -> str:
    return f"{argument.capitalize()} covers {result['area']} of the picture."


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _user(question: str) -> dict:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _tool_turns(question: str, tool: str, argument: str, result: dict, sentence: str) -> list[dict]:
    call = {"type": "function", "function": {"name": tool, "arguments": {"concept": argument}}}
    return [
        _user(question),
        {"role": "assistant", "content": [], "tool_calls": [call]},
        {"role": "tool", "name": tool, "content": [{"type": "text", "text": json.dumps(result)}]},
        _assistant(sentence),
    ]
