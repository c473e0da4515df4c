"""Labels and texts turned into conversations: what a person would ask, and what the generalist should say or call.

A question about what the picture *is* is answered from the picture; a question about what is *there*, how many and
how much is answered by calling a tool and repeating what it measured; what cannot be told is said to be so. One file a
family of questions; `make.py` holds the shares, `held_out.py` what may not be learnt from, `card.py` the data card.
"""

from slidekick.rl.instructions.make import FAMILIES, SHARES, make_instructions
from slidekick.rl.instructions.turns import Instruction
from slidekick.rl.instructions.wording import GENERAL, QUESTIONS, is_labelled, other_wordings, question_for

__all__ = [
    "FAMILIES",
    "GENERAL",
    "QUESTIONS",
    "SHARES",
    "Instruction",
    "is_labelled",
    "make_instructions",
    "other_wordings",
    "question_for",
]
