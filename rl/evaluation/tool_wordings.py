"""How people ask for a count, an outline or a measure, in words that training never uses.

The instruction families teach their own wordings; these are held out, so that a figure on them says whether the model
understood what is asked or knows the sentence. They are only for evaluation: nothing of `rl/instructions` may read
them, and a test holds that none of them is taught. {one}, {many}, {a}: the word, its plural, the word with its article;
{}: a label.
"""

from __future__ import annotations

from slidekick.copilot.language import many_of
from slidekick.rl.instructions.concepts import Word, vocabulary

COUNT = (
    "Could you tell me the number of {many} here?",
    "Number of {many}, please.",
    "I need a count of the {many}.",
    "How many {many} can be made out in this field?",
    "Please tally the {many}.",
    "What's the {one} count?",
    "Enumerate the {many} in this field.",
    "Roughly how many {many} am I looking at?",
    "Can you count up all the {many} for me?",
    "Tell me how numerous the {many} are, as a number.",
)
SEGMENT = (
    "Any {many} in this field?",
    "Does this field contain {many}?",
    "Did you spot {a} anywhere?",
    "I am looking for {many}; are they here?",
    "Could there be {a} in this area?",
    "Is any {one} visible?",
    "Can {many} be seen in this section?",
    "Check whether there is {a}.",
    "Present or absent: {one}?",
    "Please delineate the {many}.",
    "Highlight the {one} for me.",
    "Trace the {many}.",
    "I would like an outline of the {one}.",
    "In which part of the field does the {one} lie?",
    "Point out the {many}.",
    "Put a mask on the {many}.",
    "Contour all {many}.",
    "Which area holds {many}?",
    "Annotate the {one} in this region.",
    "Whereabouts are the {many}?",
    "Pick out the {many}.",
    "Could you draw the border of the {one}?",
    "I cannot see the {one}; where should I look?",
    "Circle all the {many}, please.",
)
MEASURE = (
    "What fraction is {one}?",
    "How extensive is the {one}?",
    "What percentage of the field is occupied by {one}?",
    "Estimate the area taken up by the {one}.",
    "What size are the {many}?",
    "How wide are the {many} on average?",
    "Please take the measurements of the {one}.",
    "I need the dimensions of the {many}.",
    "How much of this field does the {one} make up?",
    "Work out the area of the {one}.",
)
LABEL = (
    "What is your diagnosis?",
    "How would you classify this?",
    "What would you call this?",
    "What are we looking at?",
    "Which entity does this represent?",
    "Please name what is depicted.",
    "What would you sign this out as?",
)
YES_NO = (
    "Could this be {}?",
    "Am I right that this is {}?",
    "Do you agree with {}?",
    "Does it look like {} to you?",
    "Would {} be the right name for it?",
)
ORGAN = (
    "What organ does this come from?",
    "Which body site was sampled?",
    "Can you name the organ?",
    "Where was this specimen taken?",
    "What is the tissue of origin?",
)
STAIN = (
    "What staining method is this?",
    "Which dye was used here?",
    "Can you tell me the stain?",
    "What is this slide stained with?",
)
REFUSE = (
    "When was the patient born?",
    "What does the patient do for a living?",
    "How heavy is the patient?",
    "Does the patient have diabetes?",
    "Who sent in this specimen?",
    "When was the biopsy taken?",
    "What is the patient's blood pressure?",
    "Will the disease come back?",
    "Is there a family history of cancer?",
    "Which drugs does the patient take?",
    "Was the patient vaccinated?",
    "What was the creatinine level?",
    "Did the surgeon remove all of it?",
    "What did the last scan show?",
)
# Words that neither the segmentor's card nor the instructions know, from all over pathology and from outside it.
WORDS = (
    "Paneth cell, signet ring cell, koilocyte, Langerhans cell, Purkinje cell, Schwann cell, Kupffer cell, "
    "oligodendrocyte, astrocyte, Leydig cell, Sertoli cell, Auer rod, schistocyte, sickle cell, reticulocyte, "
    "spindle cell, rosette, pseudocyst, rete ridge, hyaline membrane, foam cell, Mallory body, portal tract, "
    "collecting duct, pollen grain, elastic fibre, comedo, clue cell, trophoblast, zymogen granule, teapot, bicycle, "
    "keratohyalin granule, Reed-Sternberg cell, Rushton body, ameloblast, sustentacular cell, brush border, suture"
)


def new_words() -> tuple[Word, ...]:
    """The words of `WORDS` that the card does not know, with their plurals."""
    listed = [word.strip() for word in WORDS.split(",")]
    return tuple(Word(word, many_of(word), word, False) for word in listed if vocabulary().find(word) is None)
