"""Reading plain English answers: sentences, clauses, quantities with units, places, singular words.

Rules over words, no model. They serve the evidence check (evidence.py), which decides what a sentence may
say; here is only what it does say. English only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

ABBREVIATIONS = (
    "e.g.",
    "i.e.",
    "approx.",
    "ca.",
    "vs.",
    "fig.",
    "no.",
    "resp.",
    "incl.",
    "dr.",
    "cf.",
    "avg.",
)
_UP_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMBER_WORDS = {word: value for value, word in enumerate(re.findall(r"\w+", _UP_TO_TWENTY))}
# Shares said in words, as the range of fractions that the word may stand for.
SHARES = {
    "half": (0.45, 0.55),
    "third": (0.28, 0.39),
    "quarter": (0.2, 0.3),
    "most": (0.5, 1),
    "majority": (0.5, 1),
}
ABOUT = 0.05  # "about 200" may be said of anything within 5 %
LEAST = 5e-7  # numbers below it are told as 0: six decimals are the most that a sentence has room for
IRREGULAR = {
    "nuclei": "nucleus",
    "nucleoli": "nucleolus",
    "glomeruli": "glomerulus",
    "villi": "villus",
    "tubuli": "tubulus",
    "acini": "acinus",
    "lumina": "lumen",
    "lumens": "lumen",
    "strata": "stratum",
    "epithelia": "epithelium",
    "mitoses": "mitosis",
    "metastases": "metastasis",
    "calices": "calyx",
    "foci": "focus",
    "vacuoles": "vacuole",
    "leucocytes": "leukocyte",
    "leucocyte": "leukocyte",
    "tumor": "tumour",
    "tumors": "tumour",
}
# Nouns that are not counted: "How much stroma?", never "stromas".
MASS = frozenset(
    ("stroma", "tissue", "cytoplasm", "epithelium", "steatosis", "change", "malignancy", "cancer", "carcinoma", "fat")
)
# Plurals that simple rules do not give, and spellings that they would mend.
UNUSUAL = {
    "cilium": "cilia", "fungus": "fungi", "bacterium": "bacteria", "thrombus": "thrombi", "alveolus": "alveoli",
    "bronchus": "bronchi", "acinus": "acini", "tumour": "tumours", "tumor": "tumors", "leukocyte": "leukocytes",
    "leucocyte": "leucocytes", "osteoid": "osteoid", "necrosis": "necrosis", "melanin": "melanin", "amyloid": "amyloid",
}  # fmt: skip
# Names that hold digits and are no measurements: grades, stages, magnifications.
_NAMES = re.compile(
    r"\b(?:grade|gleason(?:\s+(?:score|grade|pattern))?|isup|stage|type|pattern|figo|group|class|level)s?"
    r"\s*\d+(?:\s*[+=/-]\s*\d+)*|\d+\s*[x×]\b|\d+\s*×|×\s*\d+",
    re.IGNORECASE,
)
_UNIT = (
    r"%|percent\b|per\s+cent\b"
    r"|(?:[a-z ]{0,40}?)(?:/|\bper\s+)(?:mm2|mm²|square\s+millimet(?:er|re)s?)"
    r"|(?:[µμu]m[2²]|square\s+(?:microns?|micromet(?:er|re)s?)|mm[2²]|square\s+millimet(?:er|re)s?)(?!\w)"
    r"|(?:[µμu]m|microns?|micromet(?:er|re)s?|px|pixels?)(?!\w)"
)
_QUANTITY = re.compile(
    r"(?P<hint>\b(?:about|approximately|around|roughly|nearly|almost|some|circa|ca\.|more\s+than|over|above|"
    r"at\s+least|less\s+than|fewer\s+than|under|below|at\s+most|up\s+to)\s+|[~≈<>]\s*)?"
    r"(?<![\w.])(?<![A-Za-z]-)(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    rf"(?:\s*(?P<unit>{_UNIT}))?(?!\w)",
    re.IGNORECASE,
)
_WORD_QUANTITY = re.compile(
    rf"\b(?P<number>{'|'.join(NUMBER_WORDS)})\b(?!\s+(?:of|or|another|side|such)\b)", re.IGNORECASE
)
_SHARE = re.compile(
    r"\b(?P<hint>(?:more|less)\s+than\s+)?(?:a\s+|one\s+|the\s+)?"
    r"(?P<share>half|third|quarter|most|majority)\s+(?:of|the)\b",
    re.IGNORECASE,
)
_SIDE = r"(?:part|half|side|edge|corner|area|region|portion|third|quadrant|of)"
_PLACE = re.compile(
    r"\b(?:upper|top|lower|bottom|centre|center|central|middle)[ -](?:left|right|centre|center|middle)\b"
    rf"|\b(?:upper|lower|top|bottom|left|right|central|middle)\s+{_SIDE}\b"
    r"|\b(?:in|at|on|near|towards?)\s+the\s+(?:centre|center|middle|left|right|top|bottom)\b"
    r"(?![ -](?:left|right|centre|center|middle)\b)"
    r"|\b(?:throughout|everywhere)\b",
    re.IGNORECASE,
)
_SAME_PLACE = {"top": "upper", "bottom": "lower", "center": "centre", "central": "centre", "middle": "centre"}
_PLACE_WORDS = {"upper", "lower", "centre", "left", "right", "throughout"}


@dataclass(frozen=True)
class Quantity:
    """A number as said. unit: "%", "um", "um2", "mm2", "1/mm2", "px" or "" (a bare number).

    value and step are in that unit; step: the size of the last digit written. bound: "=", "~" (about), ">",
    "<". start, end: where it stands in the sentence.
    """

    text: str
    value: float
    step: float
    unit: str
    bound: str
    start: int
    end: int

    def fits(self, measured: float) -> bool:
        """Whether `measured`, in the same unit, may be said like this."""
        slack = 1e-6 * max(1.0, abs(measured))
        if self.bound == ">":
            return measured > self.value - slack
        if self.bound == "<":
            return measured < self.value + slack
        tolerance = max(self.step / 2, ABOUT * measured) if self.bound == "~" else self.step / 2
        return abs(measured - self.value) <= tolerance + slack


@dataclass(frozen=True)
class Share:
    """A share of the picture in words ("half of"): the lowest and highest fraction that it may stand for."""

    text: str
    low: float
    high: float
    start: int
    end: int


@dataclass(frozen=True)
class Place:
    """A place on the 3 × 3 grid that a sentence names; `cells` as `place` gives it."""

    text: str
    cells: frozenset[str]
    start: int
    end: int


def sentences(text: str) -> list[str]:
    """The sentences of a text, stripped, in order; a line break ends one. Nothing is lost but white space."""
    found = []
    for line in text.splitlines():
        start = 0
        for stop in re.finditer(r"[.!?]+[\"'”’)\]]*(?=\s|$)", line):
            so_far = line[start : stop.end()]
            if not so_far.lower().endswith(ABBREVIATIONS) or not line[stop.end() :].strip():
                found.append(so_far.strip())
                start = stop.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def clauses(sentence: str) -> list[str]:
    """Parts of a sentence that may say opposite things: split at but, while, whereas, although, and no,
    “;”."""
    parts = re.split(r";|,?\s+\b(?:but|while|whereas|although|however)\b|,?\s+and\s+(?=no\b)", sentence)
    return [part.strip() for part in parts if part and part.strip()]


def quantities(sentence: str) -> list[Quantity]:
    """Every number that states an amount, in order. Grades, stages, magnifications and names (CD3) are
    none."""
    masked = _NAMES.sub(lambda match: " " * len(match[0]), sentence)
    found = [_from_digits(match) for match in _QUANTITY.finditer(masked)]
    found += [
        Quantity(m[0], NUMBER_WORDS[m["number"].lower()], 1.0, "", "=", m.start(), m.end())
        for m in _WORD_QUANTITY.finditer(masked)
    ]
    return sorted(found, key=lambda quantity: quantity.start)


def shares(sentence: str) -> list[Share]:
    """Shares in words, in order."""
    found = []
    for match in _SHARE.finditer(sentence):
        low, high = SHARES[match["share"].lower()]
        hint = (match["hint"] or "").lower()
        low, high = (high, 1.0) if hint.startswith("more") else (0.0, low) if hint.startswith("less") else (low, high)
        found.append(Share(match[0], low, high, *match.span()))
    return found


def places(sentence: str) -> list[Place]:
    """Places, in order."""
    return [Place(match[0], place(match[0]), *match.span()) for match in _PLACE.finditer(sentence)]


def place(words: str) -> frozenset[str]:
    """A place as a set: "top-left corner" -> {upper, left}; centre counts only where it stands alone."""
    parts = re.findall(r"[a-z]+", words.lower().replace("everywhere", "throughout"))
    kept = {_SAME_PLACE.get(part, part) for part in parts} & _PLACE_WORDS
    return frozenset(kept - {"centre"} or kept)


def words(text: str) -> list[str]:
    """Lower-case words without digits, in their singular form."""
    return [singular(word) for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())]


def singular(word: str) -> str:
    """The singular of a lower-case English or Latin noun, as far as simple rules go; other words
    unchanged."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word


def plural(name: str) -> str:
    """The plural of a singular noun phrase: "blood vessel" -> "blood vessels", "nucleus" -> "nuclei"."""
    head, _, last = name.rpartition(" ")
    latin = {one: many for many, one in reversed(IRREGULAR.items()) if many != last}
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        many = last[:-1] + "ies"
    else:
        many = latin.get(last, last + ("es" if last.endswith(("s", "x", "ch", "sh")) else "s"))
    return f"{head} {many}".strip()


def is_plural(name: str) -> bool:
    """Whether a noun phrase speaks of several: "nuclei", "blood vessels"."""
    last = name.lower().split()[-1]
    return last not in MASS and last not in UNUSUAL and singular(last) != last


def many_of(name: str) -> str:
    """The plural of a concept's name; what is not counted, or is plural already, stays as it is."""
    if is_plural(name):
        return name
    *head, last = name.split()
    many = last if last in MASS or last.isdigit() else UNUSUAL.get(last) or plural(last)
    return " ".join([*head, many])


def singular_of(name: str) -> str:
    """The singular of a noun in any case: "Glomeruli" -> "Glomerulus"; what is not counted stays as it is."""
    one = {many: one for one, many in UNUSUAL.items()}.get(name.lower()) or singular(name.lower())
    if name.lower() in MASS or name.lower() in UNUSUAL or one == name.lower():
        return name
    return one[:1].upper() + one[1:] if name[:1].isupper() else one


def _from_digits(match: re.Match) -> Quantity:
    written = match["number"].replace(",", "")
    decimals = len(written.partition(".")[2])
    return Quantity(
        match[0].strip(),
        float(written),
        10.0**-decimals,
        _unit(match["unit"]),
        _bound(match["hint"]),
        *match.span(),
    )


def _unit(written: str | None) -> str:
    unit = re.sub(r"\s+", " ", (written or "").lower())
    if not unit:
        return ""
    if unit.startswith(("%", "per cent", "percent")):
        return "%"
    if "/" in unit or "per " in unit:
        return "1/mm2"
    if "2" in unit or "²" in unit or "square" in unit:
        return "mm2" if "mill" in unit or "mm" in unit else "um2"
    return "px" if unit.startswith(("px", "pixel")) else "um"


def _bound(hint: str | None) -> str:
    said = re.sub(r"\s+", " ", (hint or "").strip().lower())
    if said in ("more than", "over", "above", "at least", ">"):
        return ">"
    if said in ("less than", "fewer than", "under", "below", "at most", "up to", "<"):
        return "<"
    return "~" if said else "="


def amount_text(value: float, unit: str) -> str:
    """A number 0 or above with its unit, as the evidence check reads it: three digits or more, no exponent."""
    decimals = 0 if value >= 100 or value < LEAST else min(6, 2 - math.floor(math.log10(value)))
    spoken = {"": "", "%": "%", "1/mm2": " per mm2"}.get(unit, f" {unit}")
    return f"{value:.{decimals}f}{spoken}"
