"""What a text may say, given what was measured for it: each sentence becomes a claim that is backed or is
not.

The rule. A sentence that states a measured thing (an amount, a share, a place on the picture, or that
something is found, absent, covered or counted) is *measured*: every such statement in it must trace to a tool
result of this answer, about the same structure, within the rounding it is written with; and it may state
nothing else. A number of another package's tool must be named by its quantity too ("mean optical density"). Any
other sentence is a *reading* of the picture by the model: it carries no evidence and is marked so. No model here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slidekick.copilot.answer import KINDS, Claim, Evidence, Step
from slidekick.copilot.language import Quantity, clauses, place, places, quantities, sentences, shares, words

_STATES_FINDING = re.compile(
    r"\b(?:found|detect(?:ed|able)|identified|absent|present|cover(?:s|ed|ing)?|occup(?:y|ies|ied|ying)|"
    r"count(?:s|ed)?|measured?|measures|located|vocabulary|contains?|"
    r"there\s+(?:is|are|was|were)|there's)\b|^\s*no\s+\w+",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:no|not|none|nor|neither|never|without|absent|lacks?|lacking|cannot|zero)\b|n['’]t\b", re.IGNORECASE
)
_ANSWER_WORD = re.compile(r"^\s*(?:yes|no)\s*[,.:;–-]\s*", re.IGNORECASE)
# Words that state nothing by themselves: grammar, the picture, and how measured things are spoken of.
# Singular forms.
_NEUTRAL = frozenset(
    re.findall(
        r"\S+",
        "a an the this that these those it they them its their which and or but with of in on at to for "
        "from by as than so also only both all each every any some other i we you be is are was were been "
        "has ha have had do does did can could may there here yes no not none nor neither never without "
        "cannot zero absent present lack lacking about approximately around roughly nearly almost circa "
        "more les less fewer over under above below least most up part side edge corner area region portion "
        "quadrant field view found find detected detectable identified seen see visible shown show observed "
        "located lie situated distributed scattered spread throughout everywhere across within cover "
        "covered covering occupy occupies occupied occupying count counted counting measure measured "
        "measuring segment segmented contain containing mark marked outlined picture image photo slide "
        "section roi tissue sample total number amount quantity object structure instance item mean average "
        "diameter size width density percent percentage fraction share per cent square unit micron "
        "micrometer micrometre millimeter millimetre um µm μm mm px pixel vocabulary word known unknown "
        "nearest closest concept term one answer result tool overall altogether respectively place looked ",
    )
)
_KINDS = {"": ("count",), "%": ("area_fraction",), "um": ("diameter",), "1/mm2": ("density",)}


@dataclass(frozen=True)
class _Fact:
    """All that this answer measured of one concept. names: word tuples that mean it. where: places said of
    it."""

    names: frozenset[tuple[str, ...]]
    evidence: tuple[Evidence, ...]
    known: bool
    found: bool
    where: tuple[str, ...]
    nearest: str

    @property
    def presence(self) -> list[str]:
        return [item.id for item in self.evidence if item.kind == "presence"]


@dataclass(frozen=True)
class _Mention:
    fact: _Fact
    start: int
    end: int


UNBACKED = "not backed by a measurement: "  # before a sentence in a warning


def check_text(text: str, steps: Sequence[Step], evidence: Sequence[Evidence]) -> tuple[tuple[Claim, ...], list[str]]:
    """The text's claims, one a sentence, and for each unsupported one the reason in words."""
    facts = _facts(steps, evidence)
    claims, reasons = [], []
    for sentence in sentences(text):
        claim, reason = _check(sentence, facts)
        claims.append(claim)
        if reason:
            reasons.append(f"{UNBACKED}“{sentence}” ({reason})")
    return tuple(claims), reasons


def states_measurement(sentence: str) -> bool:
    """Whether the sentence states an amount, a share, a place, or that something is or is not there."""
    body = _ANSWER_WORD.sub("", sentence)
    return bool(_STATES_FINDING.search(body) or quantities(body) or shares(body) or places(body))


def denies(text: str) -> bool:
    """Whether a text says that something is not so: "no", "without", "not found", "0 nuclei"."""
    return bool(_NEGATION.search(text)) or any(q.value == 0 and not q.unit for q in quantities(text))


def _check(sentence: str, facts: list[_Fact]) -> tuple[Claim, str]:
    if not states_measurement(sentence):
        return Claim(sentence, (), True, "reading"), ""
    if not facts:
        return Claim(sentence, (), False, "measured"), "no tool was used for it"
    if re.search(r"\bvocabulary\b", sentence, re.IGNORECASE):
        ids, reason = _check_unknown(sentence, facts)
        return Claim(sentence, tuple(ids), not reason, "measured"), reason
    used: list[str] = []
    reason, topic = "", None
    for clause in clauses(_ANSWER_WORD.sub("", sentence)):
        ids, trouble, topic = _check_clause(clause, facts, topic)
        used += ids
        reason = reason or trouble
    return Claim(sentence, tuple(dict.fromkeys(used)), not reason, "measured"), reason


def _check_clause(clause: str, facts: list[_Fact], topic: _Fact | None) -> tuple[list[str], str, _Fact | None]:
    """One clause: evidence ids it rests on, what is wrong with it ("" where nothing is), the fact it is
    about."""
    mentions = _mentions(clause, facts)
    stray = _stray_words(clause, mentions)
    if stray:
        return [], f"{', '.join(stray)}: not measured", topic
    if not mentions:
        topic = topic or (facts[0] if len(facts) == 1 else None)
        if topic is None:
            return [], "it does not say what it is about", None
        mentions = [_Mention(topic, 0, 0)]
    used: list[str] = []
    for check in (_presence, _amounts, _numbers_alone, _shares, _places):
        ids, trouble = check(clause, mentions)
        if trouble:
            return used, trouble, mentions[-1].fact
        used += ids
    return used, "", mentions[-1].fact


def _presence(clause: str, mentions: list[_Mention]) -> tuple[list[str], str]:
    """Every concept named must have been looked for, and be there or not as the clause says."""
    denied = denies(clause)
    used = []
    for fact in (mention.fact for mention in mentions):
        name = fact.evidence[0].concept
        if not fact.known:
            return [], f"{name} was not looked for"
        if not fact.presence:
            continue  # nobody looked whether it is there: see `_numbers_alone`
        if fact.found == denied:
            return [], f"{name} was {'found' if fact.found else 'not found'}"
        used += fact.presence
    return used, ""


def _amounts(clause: str, mentions: list[_Mention]) -> tuple[list[str], str]:
    used = []
    for quantity in quantities(clause):
        fact = _owner(quantity, clause, mentions)
        if quantity.value == 0 and not fact.found:
            continue  # "0 glands" of what was not found: the presence check has passed it
        named = _quantity_named(fact, clause)
        backing = [item.id for item in fact.evidence if _backs(item, quantity, named)]
        if not backing:
            return [], f"{quantity.text} is not what was measured{_measured(fact, quantity)}"
        used += backing
    return used, ""


def _numbers_alone(clause: str, mentions: list[_Mention]) -> tuple[list[str], str]:
    """Of what was not looked for but measured otherwise, a clause may state the numbers and not that it is there."""
    owners = [_owner(quantity, clause, mentions) for quantity in quantities(clause)]
    for fact in (mention.fact for mention in mentions if not mention.fact.presence):
        name = fact.evidence[0].concept
        if _NEUTRAL.issuperset(words(name)):
            continue  # "of the picture" states nothing by itself
        if _NEGATION.search(clause) or not any(owner is fact for owner in owners):
            return [], f"whether {name} is there was not measured"
    return [], ""


def _shares(clause: str, mentions: list[_Mention]) -> tuple[list[str], str]:
    used = []
    for share in shares(clause):
        areas = [item for item in mentions[-1].fact.evidence if item.kind == "area_fraction"]
        backing = [item.id for item in areas if share.low <= item.value <= share.high]
        if not backing:
            return [], f"“{share.text}” is not what was measured"
        used += backing
    return used, ""


def _places(clause: str, mentions: list[_Mention]) -> tuple[list[str], str]:
    for said in places(clause):
        known = {place(where) for mention in mentions for where in mention.fact.where}
        if said.cells not in known:
            return [], "the place is not what was measured" if known else "no place was measured"
    return [], ""  # the presence evidence, already noted, carries the mask that shows the place


def _check_unknown(sentence: str, facts: list[_Fact]) -> tuple[list[str], str]:
    """“X is not in the vocabulary; nearest known: Y.” must be what the tool said, and nothing more."""
    unknown = [fact for fact in facts if not fact.known]
    fact = next((mention.fact for mention in _mentions(sentence, unknown)), unknown[0] if len(unknown) == 1 else None)
    if fact is None or not _NEGATION.search(sentence):
        return [], "the tools reported no such gap in the vocabulary"
    nearest = set(words(fact.nearest))
    stray = [word for word in _stray_words(sentence, _mentions(sentence, [fact])) if words(word)[0] not in nearest]
    return (fact.presence, "") if not stray else ([], f"{', '.join(stray)}: not what the tool reported")


def _quantity_named(fact: _Fact, clause: str) -> str:
    """Which quantity of another package's tool a clause names; "" for none, and where it names several."""
    said = set(words(clause))
    named = {item.kind: set(words(item.kind)) for item in fact.evidence if item.kind not in KINDS}
    named = {kind: own for kind, own in named.items() if own <= said}
    longest = [kind for kind, own in named.items() if not any(own < other for other in named.values())]
    return longest[0] if len(longest) == 1 else ""


def _backs(item: Evidence, quantity: Quantity, named: str = "") -> bool:
    """named: the quantity that the clause names, as another package's tool calls it."""
    if item.value is None or not item.found:
        return False
    if item.kind not in KINDS:
        return item.kind == named and quantity.unit == item.unit and quantity.fits(item.value)
    if quantity.unit in ("um2", "mm2"):
        scale = 1e-6 if quantity.unit == "mm2" else 1.0
        return item.kind == "area" and item.unit == "um2" and quantity.fits(item.value * scale)
    if quantity.unit == "px":
        return item.kind in ("area", "diameter") and item.unit == "px" and quantity.fits(item.value)
    scale = 100.0 if quantity.unit == "%" else 1.0
    kinds = _KINDS[quantity.unit]
    right_unit = item.kind != "diameter" or item.unit == "um"
    return item.kind in kinds and right_unit and quantity.fits(item.value * scale)


def _measured(fact: _Fact, quantity: Quantity) -> str:
    kinds = _KINDS.get(quantity.unit, ("area", "diameter"))
    for item in fact.evidence:
        if item.kind in kinds and item.value is not None and item.found:
            value = f"{item.value:.4g} {item.unit}"
            if item.kind in ("area_fraction", "count"):
                value = f"{100 * item.value:.0f}%" if item.kind == "area_fraction" else f"{item.value:.0f}"
            return f" ({item.concept}: {value})"
    return ""


def _owner(quantity: Quantity, clause: str, mentions: list[_Mention]) -> _Fact:
    """Whose number it is: the concept right behind it, else the nearest before it, else the nearest
    behind."""
    for mention in mentions:
        if mention.start >= quantity.end and not clause[quantity.end : mention.start].strip(" -"):
            return mention.fact
    before = [mention for mention in mentions if mention.end <= quantity.start]
    return (before[-1] if before else mentions[0]).fact


def _facts(steps: Sequence[Step], evidence: Sequence[Evidence]) -> list[_Fact]:
    """Evidence grouped by concept, with the words that meant it in the calls."""
    by_concept: dict[str, list[Evidence]] = {}
    for item in evidence:
        by_concept.setdefault(item.concept, []).append(item)
    facts = []
    for concept, items in by_concept.items():
        ids = {item.step for item in items}
        its_steps = [step for step in steps if step.id in ids]
        looked = [step for step in its_steps if "found" in step.result]
        spoken = [concept, *(str(step.arguments.get("concept", "")) for step in looked)]
        results = [step.result for step in its_steps]
        facts.append(
            _Fact(
                names=frozenset(name for name in (tuple(words(said)) for said in spoken) if name),
                evidence=tuple(items),
                known=not any(result.get("known") is False for result in results),
                found=any(item.found for item in items),
                where=tuple(str(result["where"]) for result in results if "where" in result),
                nearest=next((str(result["nearest"]) for result in results if "nearest" in result), ""),
            )
        )
    return facts


def _mentions(clause: str, facts: list[_Fact]) -> list[_Mention]:
    """Where the clause names a fact's concept, longest names first, none overlapping, in order."""
    tokens = [(words(match[0])[0], *match.span()) for match in re.finditer(r"[^\W\d_]+(?:['’][^\W\d_]+)?", clause)]
    taken: set[int] = set()
    found = []
    named = sorted(((name, fact) for fact in facts for name in fact.names), key=lambda pair: -len(pair[0]))
    for name, fact in named:
        for i in range(len(tokens) - len(name) + 1):
            place_ = range(i, i + len(name))
            if taken.isdisjoint(place_) and tuple(tokens[j][0] for j in place_) == name:
                taken.update(place_)
                found.append(_Mention(fact, tokens[i][1], tokens[place_[-1]][2]))
    return sorted(found, key=lambda mention: mention.start)


def _stray_words(clause: str, mentions: list[_Mention]) -> list[str]:
    """Words that are neither a measured concept, an amount nor neutral, as they are written."""
    rest = list(clause)
    for part in (*mentions, *quantities(clause), *shares(clause), *places(clause)):
        rest[part.start : part.end] = " " * (part.end - part.start)
    strays = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", "".join(rest))
    kinds = {item.kind for mention in mentions for item in mention.fact.evidence if item.kind not in KINDS}
    named = {word for kind in kinds for word in words(kind)}
    return [word for word in strays if words(word)[0] not in _NEUTRAL | named and word.lower() not in _NEUTRAL]
