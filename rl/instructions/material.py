"""All that instructions are made of, read from a data folder: training pictures and texts, less what may not be seen.

Sets named in `held_back` are left out entirely, so that a later stage can show what adding them brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.items import Item, load_items
from slidekick.rl.instructions.held_out import Dropped, unseen_items, unseen_texts
from slidekick.rl.instructions.make import SHARES, make_instructions
from slidekick.rl.instructions.texts import Text, load_texts
from slidekick.rl.instructions.turns import Instruction

KEYS = ("count", "seed", "shares", "held_back", "focus")
FOCUSED = 0.5  # share of conversations about the sets in `focus`; the others keep alive what was learnt before


@dataclass(frozen=True)
class Plan:
    """The section `instructions` of a configuration.

    shares: family -> share, in place of the default's. held_back: sets that are left out. focus: sets that half of the
    conversations are about.
    """

    count: int
    seed: int
    shares: Mapping[str, float] = field(default_factory=dict)
    held_back: tuple[str, ...] = ()
    focus: tuple[str, ...] = ()

    @classmethod
    def read(cls, section: Mapping, where: Path) -> Plan:
        """The checked section. Raises InputError that names the file and the key."""
        for key in section:
            if key not in KEYS:
                raise InputError(f"{where}: instructions has no key {key!r}; there are {', '.join(KEYS)}")
        for key, least in (("count", 1), ("seed", 0)):
            if type(section.get(key)) is not int or section[key] < least:
                raise InputError(f"{where}: instructions.{key} is {section.get(key)!r}, not a whole number >= {least}")
        shares = section.get("shares") or {}
        back, focus = (section.get(key) or [] for key in ("held_back", "focus"))
        if not isinstance(shares, Mapping) or not isinstance(back, list) or not isinstance(focus, list):
            raise InputError(
                f"{where}: instructions.shares is a mapping, held_back and focus are lists; see rl/configs/mini.yaml"
            )
        for family, share in shares.items():
            if family not in SHARES:
                raise InputError(f"{where}: no family {family!r}; there are {', '.join(SHARES)}")
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
                raise InputError(f"{where}: share of {family} is {share!r}; give a number from 0 on")
        if not any({**SHARES, **shares}.values()):
            raise InputError(f"{where}: all shares are 0; leave one family in")
        return cls(section["count"], section["seed"], dict(shares), tuple(map(str, back)), tuple(map(str, focus)))


@dataclass(frozen=True)
class Material:
    """items, texts: for training. held, all_texts: what must not be met, for a last check. dropped: of both kinds."""

    items: list[Item]
    texts: list[Text]
    held: list[Item]
    all_texts: list[Text]
    dropped_items: Dropped
    dropped_texts: Dropped


def gather(data: Path, held_back: tuple[str, ...] = ()) -> Material:
    """Read `data`: its sets of pictures and its text sets. Held-out rows bar training rows of every set, also where
    their own set is held back.

    Raises InputError for a folder that cannot be used or a set to hold back that is not there.
    """
    items, texts = load_items(data), load_texts(data)
    there = {row.set for row in (*items, *texts)}
    for name in held_back:
        if name not in there:
            raise InputError(f"{data}: no set named {name!r} to hold back; there are {', '.join(sorted(there))}")
    held = [item for item in items if item.split != "train"]
    train = [item for item in items if item.split == "train" and item.set not in held_back]
    kept, dropped_items = unseen_items(train, held)
    asked, dropped_texts = unseen_texts([text for text in texts if text.held or text.set not in held_back])
    return Material(kept, asked, held, texts, dropped_items, dropped_texts)


def make_lessons(plan: Plan, material: Material) -> list[Instruction]:
    """The plan's conversations over the material, in an order drawn by chance.

    Raises InputError for a set to focus on that is not there, and as `make_instructions`.
    """
    if not plan.focus:
        return make_instructions(material.items, plan.count, plan.seed, plan.shares, material.texts)
    rows = [[row for row in kind if row.set in plan.focus] for kind in (material.items, material.texts)]
    if missing := sorted(set(plan.focus) - {row.set for kind in rows for row in kind}):
        raise InputError(f"no training row of the set {missing[0]!r} to focus on; see held_back and focus")
    focused = round(plan.count * FOCUSED)
    made = make_instructions(rows[0], focused, plan.seed, plan.shares, rows[1])
    made += make_instructions(material.items, plan.count - focused, plan.seed + 1, plan.shares, material.texts)
    return [made[index] for index in np.random.default_rng(plan.seed).permutation(len(made))]
