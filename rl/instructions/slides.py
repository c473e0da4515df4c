"""Questions about whole slides whose answers follow from a plan: what is on it, where, how much, what is missing.

What can be counted in tiles is asked of the tools; what the slide is as a whole is read from its tokens. The first
wording of each kind is the one that evaluation asks, and the last two are never taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slidekick.copilot.sentences import covers_sentence, segment_sentence
from slidekick.copilot.tools import percent
from slidekick.data.layout import GLASS, OTHER, Layout
from slidekick.grounding.finding import TISSUE
from slidekick.grounding.measure import PLACES
from slidekick.rl.instructions.turns import Call, Exchange, called, said

UNTAUGHT = 2  # wordings at the end of each list
LEAD = 0.1  # share by which the dominant tissue leads where it is asked for
CLEAR = 0.75  # share of a part of the slide that one tissue takes where that part is asked about
HIGHEST = 0.03  # share from which a pattern counts for the grade
WORDINGS = {
    "dominant": (
        "What is the main tissue on this slide?",
        "Which tissue takes most of the slide?",
        "What does this slide mostly show?",
        "Name the predominant tissue.",
        "What is the dominant tissue of the slide?",
        "Which tissue prevails on this slide?",
        "What is on this slide?",
        "Of which tissue is there most?",
        "What tissue makes up most of this slide?",
    ),
    "organ": (
        "Which organ is this slide from?",
        "From where in the body is this slide?",
        "What organ does the slide show?",
        "Name the organ on this slide.",
        "Which organ was cut for this slide?",
        "This slide is of which organ?",
    ),
    "part": (
        "Which tissue is in the {} of the slide?",
        "What lies in the {}?",
        "Name the tissue in the {}.",
        "What do you see in the {} of this slide?",
        "In the {}, what tissue is it?",
        "Tell me the tissue at the {}.",
    ),
    "grade": (
        "What is the highest Gleason pattern on this slide?",
        "Which is the worst Gleason pattern here?",
        "Name the highest Gleason pattern.",
        "How high does the Gleason pattern go?",
        "What is the top Gleason pattern?",
    ),
    "present": (
        "Is there {} on this slide?",
        "Does the slide show {}?",
        "Is any {} to be seen?",
        "Can you find {} on the slide?",
        "Is {} present?",
        "Do you see {} anywhere?",
        "Is there any {}?",
        "Does it hold {}?",
        "Is {} seen in any part of the slide?",
        "Look for {}. Is it there?",
        "Was {} sampled?",
        "Does this case contain {}?",
        "Have we got {} here?",
    ),
    "where": (
        "Where is the {}?",
        "Show me the {} on the slide.",
        "Where on the slide is {}?",
        "Mark the {}.",
        "Find the {}.",
        "At which side does the {} lie?",
        "On what part of the tissue is the {}?",
        "In which corner is {}?",
        "Whereabouts is {}?",
        "Locate {}.",
        "Outline the {}.",
        "In what region do you find {}?",
        "Which part shows {}?",
        "In which part of the slide is {}?",
        "Point to the {}.",
    ),
    "share": (
        "How much of the tissue is {}?",
        "What share of the slide is {}?",
        "How much {} is there?",
        "What area does the {} take?",
        "Measure the {}.",
        "What percentage of the tissue is {}?",
        "How large is the {}?",
        "How far does the {} extend?",
        "What part of the tissue does {} take?",
        "Give the extent of the {}.",
        "What proportion is {}?",
    ),
}
READ, BY_TOOL = ("dominant", "organ", "part", "grade"), ("present", "where", "share")
GRADES = ("Gleason pattern 3", "Gleason pattern 4", "Gleason pattern 5")
TOOLS = {"present": "segment", "where": "segment", "share": "measure"}


@dataclass(frozen=True)
class SlideQuestion:
    """kind: a key of `WORDINGS`. asked: what stands in the wording. answer: of one that is read. present, share: truth
    about the tissue that is asked for."""

    kind: str
    asked: str = ""
    answer: str = ""
    present: bool = False
    share: float = 0.0

    def wording(self, number: int) -> str:
        """The question, in one of its wordings."""
        return WORDINGS[self.kind][number].format(self.asked)


def slide_questions(layout: Layout, absent: Sequence[str]) -> list[SlideQuestion]:
    """All that can be asked about a plan, of tissues that have a name; absent: what could be on it and is not."""
    found = []
    shares = {name: layout.share(name) for name in layout.tissues}
    first, second = [*sorted(shares.values(), reverse=True), 0.0][:2]
    if first - second >= LEAD and layout.dominant != OTHER:
        found.append(SlideQuestion("dominant", answer=layout.dominant))
    if layout.case != "mixed":
        found.append(SlideQuestion("organ", answer=layout.case))
    found += [SlideQuestion("part", place, name) for place, name in _parts(layout).items()]
    grades = [name for name in GRADES if shares.get(name, 0) >= HIGHEST]
    if layout.case == "prostate" and grades:
        found.append(SlideQuestion("grade", answer=grades[-1]))
    for name, share in shares.items():
        if name == OTHER:
            continue
        found += [SlideQuestion(kind, name, present=True, share=share) for kind in BY_TOOL]
    return found + [SlideQuestion("present", name) for name in absent]


def _parts(layout: Layout) -> dict[str, str]:
    """Parts of the tissue's box, in words of a 3 x 3 grid, that one tissue nearly fills -> the tissue."""
    rows, columns = np.nonzero(layout.cells != GLASS)
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    found = {}
    for row in range(3):
        for column in range(3):
            y0, y1 = (top + round(height * (row + part) / 3) for part in (0, 1))
            x0, x1 = (left + round(width * (column + part) / 3) for part in (0, 1))
            tissue, cells = layout.tissue[y0:y1, x0:x1], layout.cells[y0:y1, x0:x1]
            areas = [float(tissue[cells == index].sum()) for index in range(len(layout.tissues))]
            best = int(np.argmax(areas))
            named = layout.tissues[best] != OTHER
            if named and tissue.mean() > 0.4 and areas[best] >= CLEAR * sum(areas):
                found[PLACES[row][column]] = layout.tissues[best]
    return found


def exchange(one: SlideQuestion, layout: Layout, rng: np.random.Generator) -> Exchange:
    """A question in one of the taught wordings and what is to be said or called."""
    question = one.wording(int(rng.integers(len(WORDINGS[one.kind]) - UNTAUGHT)))
    if one.kind in READ:
        return said(question, one.answer)
    result = {"found": False, "of": TISSUE}
    if one.present:
        area = {"area": percent(one.share)}
        where = {"where": _place(layout, one.asked)} if one.kind != "share" else {}
        result = {"found": True, **area, **where, "of": TISSUE}
    if one.kind == "share":
        return called(question, [Call("measure", one.asked, result)], covers_sentence(one.asked, result))
    text = segment_sentence(one.asked, result, one.kind == "present")
    return called(question, [Call(TOOLS[one.kind], one.asked, result)], text)


def _place(layout: Layout, tissue: str) -> str:
    from slidekick.grounding.measure import place_of

    return place_of(layout.cells == layout.tissues.index(tissue))
