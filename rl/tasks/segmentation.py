"""Is it there, and where? `segment` is called; the mask that the call drew is what is rewarded, not what is said of it.

Only pictures whose labels tell the truth are asked about, some of them without what is asked for, and words outside the
vocabulary, of which the right answer is that they are not known.
"""

from __future__ import annotations

import numpy as np

from slidekick.copilot.tools import compact_result
from slidekick.data.triples import Triple, judged, truth
from slidekick.grounding.export import from_rle, to_rle
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure
from slidekick.grounding.metrics import dice
from slidekick.rl.instructions.balance import Balanced, one
from slidekick.rl.instructions.concepts import draw_phrasing, names, strangers
from slidekick.rl.instructions.segmentation import Segmentation
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.parsing import open_text
from slidekick.rl.tasks.saying import means, told
from slidekick.rl.tasks.task import Rollout, Row, Task, ToolStep, Truth

TOOL = "segment"
ABSENT, STRANGE = 0.25, 0.1  # shares of questions about what is surely not there, and of words that are not known
UNSAID = 0.5  # of the reward is left where the text does not tell what the tool returned


class Segmented:
    """Pictures of which it is known where a concept is, or that it is not there; concepts drawn evenly in each set."""

    def __init__(self, stock: Stock) -> None:
        self.family = Segmentation(stock)
        known = stock.truths.known.values()
        self.there: Balanced[Triple] = Balanced((t.item.set, t.concept, t) for t in known if t.mode != "absent")
        self.absent: Balanced[Triple] = Balanced((t.item.set, t.concept, t) for t in known if t.mode == "absent")

    def __bool__(self) -> bool:
        return bool(self.there)

    def make(self, rng: np.random.Generator) -> Row:
        """Whether or where something is."""
        roll = rng.random()
        triple = (self.absent if self.absent and roll < ABSENT else self.there).draw(rng)
        item = triple.item
        if roll > 1 - STRANGE:
            word, known = one(rng, strangers()), {"mask": None, "judged": None}
            result = {"found": False, "known": False, "nearest": one(rng, names())}
        else:
            word, known = draw_phrasing(rng, triple.concept), mask_truth(triple)
            result = true_result(triple)
        question, answer = self.family.wording(rng, word, result)
        known |= {"answer": answer, "concept": word.concept, "word": word.one}
        return Row("segmentation", item.set, question, known, (item.image,))


def mask_truth(triple: Triple) -> dict:
    """Where a concept is, as COCO run lengths: `mask`, and `judged`, the pixels that count (None: all)."""
    seen = judged(triple)
    return {"mask": to_rle(truth(triple)[0]), "judged": None if seen is None else to_rle(seen)}


def true_result(triple: Triple) -> dict:
    """What `segment` would return if it saw what the labels say."""
    finding = Finding(triple.concept, truth(triple)[0], 1.0, 1.0)
    return compact_result(TOOL, measure(finding, triple.item.scale))


def read(rollout: Rollout, truth: Truth) -> str | None:
    """The answer's words; None where no tool was called, since nothing was drawn then."""
    return open_text(rollout.text) if rollout.steps else None


def score(said: str, rollout: Rollout, truth: Truth) -> dict[str, float]:
    """Mean of `drawn` over all calls, so that calling for several words costs; times `UNSAID` where the text does not
    tell what the tools returned (`saying.told`)."""
    mask = float(np.mean([drawn(step, truth) for step in rollout.steps]))
    says = float(told(rollout.text, rollout.steps))
    return {"score": mask * (UNSAID + (1 - UNSAID) * says), "dice": mask, "told": says}


def drawn(step: ToolStep, truth: Truth) -> float:
    """What one call is worth: Dice of its mask with the truth, over the judged pixels (`grounding.metrics.dice`).

    Where the concept is not there, 1 for a call with its word that drew nothing, else 0; of a word that is not known, 1
    for a call with that word that found nothing. 0 for another tool, or where no mask was kept of what was found.
    """
    if step.name != TOOL or "found" not in step.result:
        return 0.0
    if truth["mask"] is None:  # a word that is not known
        return float(step.result["found"] is not True and means(step.concept, truth["concept"]))
    true = from_rle(truth["mask"])
    mask = np.zeros(true.shape, bool) if step.result["found"] is not True else step.mask
    if mask is None:
        return 0.0
    mask = sampled(mask, true.shape)
    if truth["judged"] is not None:
        seen = from_rle(truth["judged"])
        true, mask = true & seen, mask & seen
    if not true.any():
        return float(not mask.any() and means(step.concept, truth["concept"]))
    return dice(mask, true)


def sampled(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask at another size, bool `shape`, by the nearest pixel; all False for an empty picture."""
    if mask.shape == tuple(shape):
        return mask.astype(bool)
    if not mask.size:
        return np.zeros(shape, bool)
    rows, columns = (np.arange(new) * old // new for new, old in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)].astype(bool)


TASK = Task("segmentation", Segmented, read, score)
