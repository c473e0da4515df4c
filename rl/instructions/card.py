"""The data card: what a configuration's instructions hold, by family and set, how they were balanced and cleaned.

Text only. Sets of texts are counted and not quoted: their licences leave open whether that may be.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slidekick.rl.instructions.held_out import leaks
from slidekick.rl.instructions.make import SHARES
from slidekick.rl.instructions.material import Material, Plan, gather, make_lessons
from slidekick.rl.instructions.texts import FOLDER, READERS
from slidekick.rl.instructions.turns import Instruction, text_of

TEMPLATE = Path(__file__).with_name("card.md.jinja")
EXAMPLES = 3  # a family
LONGEST = 200  # characters of an example
LICENCE = 150  # characters of a set's licence line


def write_card(plan: Plan, data: Path, config: str, tokenizer) -> tuple[str, dict]:
    """Markdown of the card and its headline: {"instructions", "seconds", "tokens", "leaks"}.

    config: how the configuration is named. tokenizer: the generalist's, with its chat template; 36 tokens are counted
    for every picture. Raises InputError for a data folder that cannot be used.
    """
    from jinja2 import Environment, StrictUndefined

    from slidekick.copilot.tools import tool_schemas

    start = time.perf_counter()
    material = gather(data, plan.held_back)
    read = time.perf_counter()
    made = make_lessons(plan, material)
    done = time.perf_counter()
    lengths = [_tokens(one, tokenizer, list(tool_schemas())) for one in made]
    found = leaks(made, material.held, material.all_texts)
    headline = {
        "instructions": len(made),
        "seconds": {"read and compare": round(read - start, 1), "make": round(done - read, 1)},
        "tokens": round(float(np.mean(lengths)), 1),
        "leaks": len(found),
    }
    template = Environment(
        autoescape=False, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    ).from_string(TEMPLATE.read_text())
    text = template.render(
        headline,
        config=config,
        plan=plan,
        shares={**SHARES, **plan.shares},
        shown=Counter(len(one.images) for one in made),
        dropped=_dropped(material),
        families=_families(made, lengths),
        table=_table(made),
        unused=_unused(data, material, made),
        licences=_licences(data, made),
    )
    return text, headline


def _tokens(one: Instruction, tokenizer, schemas: list[dict]) -> int:
    from slidekick.rl.sft import IMAGE_TOKENS

    ids = tokenizer.apply_chat_template(one.messages, tools=schemas, return_dict=True)["input_ids"]
    return len(ids) + (IMAGE_TOKENS - 1) * len(one.images)


def _families(made: Sequence[Instruction], lengths: Sequence[int]) -> list[dict]:
    """Of each family: name, number, sets, tokens, answers that come most often, examples."""
    groups: dict[str, list[tuple[Instruction, int]]] = defaultdict(list)
    for one, length in zip(made, lengths, strict=True):
        groups[one.task].append((one, length))
    found = []
    for name in SHARES:
        if rows := groups.get(name):
            sizes = [length for _, length in rows]
            shapes = Counter(
                "two pictures" if len(o.images) == 2 else "text only" if not o.images else "" for o, _ in rows
            )
            found.append(
                {
                    "name": name,
                    "count": len(rows),
                    "sets": len({one.set for one, _ in rows}),
                    "tokens": f"{np.mean(sizes):.0f}",
                    "longest": max(sizes),
                    "two": shapes["two pictures"],
                    "bare": shapes["text only"],
                    "examples": _examples([one for one, _ in rows]),
                }
            )
    return found


def _examples(rows: Sequence[Instruction]) -> list[str]:
    """A few conversations of different sets and endings, as one line each."""
    chosen, seen = [], set()
    for one in rows:
        line = " ".join(filter(None, (_line(message) for message in one.messages)))
        if one.set not in READERS and one.set not in seen and len(line) <= LONGEST:
            chosen.append(line)
            seen.add(one.set)
        if len(chosen) == EXAMPLES:
            break
    return chosen


def _line(message: dict) -> str:
    if message.get("tool_calls"):
        function = message["tool_calls"][0]["function"]
        return f"→ `{function['name']}({function['arguments']['concept']})`"
    text = text_of(message)
    return {"user": f"**{text}**", "tool": f"→ `{text}`"}.get(message["role"], text)


def _table(made: Sequence[Instruction]) -> dict:
    """Rows by set, columns by family, with sums."""
    counts = Counter((one.set, one.task) for one in made)
    families = [name for name in SHARES if any(task == name for _, task in counts)]
    sets = sorted({name for name, _ in counts}, key=lambda name: (name in READERS, name))
    rows = [(name, [counts[name, task] for task in families], sum(counts[name, t] for t in families)) for name in sets]
    return {"families": families, "rows": rows, "sums": [sum(counts[s, task] for s in sets) for task in families]}


def _dropped(material: Material) -> dict:
    """What was kept and left out: per set (kept, held, twice), pictures and texts apart."""
    found = {}
    pairs = (("pictures", material.items, material.dropped_items), ("texts", material.texts, material.dropped_texts))
    for kind, kept, dropped in pairs:
        sizes = Counter(row.set for row in kept)
        names = sorted(set(sizes) | set(dropped.held) | set(dropped.twice))
        found[kind] = [(name, sizes[name], dropped.held[name], dropped.twice[name]) for name in names]
    return found


def _unused(data: Path, material: Material, made: Sequence[Instruction]) -> dict[str, list[str]]:
    """Sets that nothing was made of: `held` have no training row, `words` are text sets without a reader."""
    folders = {path.name for path in (data / FOLDER).glob("*/") if path.is_dir()}
    held = {row.set for row in (*material.held, *material.all_texts)} - {one.set for one in made}
    return {"held": sorted(held), "words": sorted(folders - set(READERS))}


def _licences(data: Path, made: Sequence[Instruction]) -> list[tuple[str, str]]:
    """(set, licence as its SOURCE.md states it)."""
    found = []
    for name in sorted({one.set for one in made}):
        file = data / (FOLDER if name in READERS else "") / name / "SOURCE.md"
        text = file.read_text() if file.is_file() else ""
        # "Licence as stated (README): ..." or "Licences: ..."
        stated = re.search(r"\bLicen[cs]es?\b[^:\n]*:\s*(.+)$", text, re.MULTILINE)
        line = stated[1].strip() if stated else "not stated"
        found.append((name, line if len(line) <= LICENCE else line[:LICENCE].rsplit(" ", 1)[0] + " …"))
    return found
