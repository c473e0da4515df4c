"""How people ask what a picture is: wordings of its own for every labelled set, and wordings for all.

Some ways to ask are never taught: evaluation holds the model's answers to them too.
"""

from __future__ import annotations

from slidekick.data.items import Item

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
    "osteosarcoma": ("What does this bone tissue show?", "What is the diagnosis of this bone tissue?"),
    "pbc_wbc_attributes": ("Which blood cell is this?", "What blood cell does the picture show?"),
    "prostate_gleason": ("What is the Gleason pattern?", "Which Gleason pattern does this prostate show?"),
    "wbc_zheng": ("Which white blood cell is this?", "What type of white blood cell is this?"),
}
# What a set's labels are, as it stands in WAYS.
NOUNS = {
    "aml_cytomorphology": "detailed blood cell type",
    "breakhis_400x": "breast lesion",
    "chula_rbc_crops": "red blood cell shape",
    "crc_val_he": "colorectal tissue",
    "ebhi_seg": "colorectal lesion",
    "gbm40": "brain tumour",
    "glas": "gland grade",
    "herlev_pap": "cervical cell",
    "kather2016_sample": "tissue texture",
    "lbc_pap": "Bethesda category",
    "lc25000_colon": "colon diagnosis",
    "lc25000_lung": "lung diagnosis",
    "malaria_cells": "infection state",
    "ocdc": "oral tumour",
    "oral_oscc": "oral tissue",
    "osteosarcoma": "bone tissue",
    "pbc_wbc_attributes": "blood cell",
    "prostate_gleason": "Gleason pattern",
    "wbc_zheng": "white blood cell",
}
WAYS = (
    "Name the {}.",
    "What {} is this?",
    "Which {} do you see?",
    "Tell me the {}.",
    "What {} is shown here?",
    "Which {} is it?",
    "What is the {}?",
    "Say which {} this is.",
    "Give the {}.",
    "The {}, please.",
    "Determine the {}.",
)
UNTAUGHT_WAYS = ("Identify the {}.", "Which {} would you say this is?")
GENERAL = (
    "What does this picture show?",
    "What is this?",
    "What do you see?",
    "What is shown here?",
    "Name what you see.",
    "What is your impression?",
    "Give me your reading.",
    "What do we have here?",
    "Say what this is.",
    "What am I seeing?",
    "Tell me what this is.",
    "Put a name to this.",
    "What could this be?",
    "Give it a name.",
    "What is the finding?",
    "What can you see here?",
)
ORGAN = (
    "Which organ is this?",
    "Where in the body is this tissue from?",
    "What organ is it?",
    "From which organ is this tissue?",
    "What organ is shown?",
    "Name the organ.",
    "Tell me the organ.",
    "What part of the body is it?",
    "Which tissue is this from?",
)
STAIN = (
    "Which stain is this?",
    "How is this stained?",
    "What stain was used?",
    "Name the stain.",
    "Tell me the stain.",
    "What is the stain?",
    "What colouring was applied?",
    "In which stain is it?",
    "With what was it stained?",
)


def is_labelled(item: Item) -> bool:
    """Whether its label can be asked for."""
    return bool(item.label) and item.set in QUESTIONS


def question_for(item: Item) -> str:
    """The wording that evaluation asks of a labelled item's set."""
    return QUESTIONS[item.set][0] if item.set in QUESTIONS else GENERAL[0]


def taught(name: str) -> tuple[str, ...]:
    """All wordings that training asks of a set, the one that evaluation asks first."""
    return (*QUESTIONS[name], *(way.format(NOUNS[name]) for way in WAYS))


def other_wordings(name: str) -> tuple[str, ...]:
    """What else evaluation asks of a set: its own further wordings, one of the taught ways, and those never taught."""
    return (*QUESTIONS[name][1:], *(way.format(NOUNS[name]) for way in (WAYS[0], *UNTAUGHT_WAYS)))


def article(word: str) -> str:
    """The word with a or an before it."""
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"


def short(name: str) -> str:
    """An organ or stain without what stands in brackets after it: "blood (thin smear)" -> "blood"."""
    return name.split(" (")[0]
