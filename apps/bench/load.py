"""Many clients at a time: are all answered, each its own answer, how fast, and does memory stay flat.

The server runs in a process of its own. Clients ask about one of several fields at a time and come again when they are
told to (429 with Retry-After); what each is told is held against what the copilot tells when it is asked alone.
`python -m slidekick.apps.bench.load [--clients 64] [--minutes 10] [--json]`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slidekick.apps.bench.servers import QUESTIONS, message, running

PICTURES, SIDE = 24, 192  # px


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where an answer was lost or another's."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.load", description="Ask a server from many clients.")
    parser.add_argument("--clients", type=int, default=64, metavar="N")
    parser.add_argument("--minutes", type=float, default=10, metavar="M")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        names = paint(Path(place) / "fields")
        wanted = alone(Path(place) / "fields", names)
        told = loaded(Path(place) / "fields", wanted, args.clients, 60 * args.minutes)
    print(json.dumps(told, indent=1) if args.json else "\n".join(f"{name}: {value}" for name, value in told.items()))
    return int(bool(told["lost"] or told["another's or otherwise said"]))


def paint(folder: Path) -> list[str]:
    """Fields cut out of a sample, each another; their names."""
    from PIL import Image

    from slidekick.data import read_roi
    from slidekick.data.samples import sample

    folder.mkdir()
    whole, rng = read_roi(sample("he")).pixels, np.random.default_rng(0)
    for number in range(PICTURES):
        y, x = (int(rng.integers(0, side - SIDE)) for side in whole.shape[:2])
        Image.fromarray(whole[y : y + SIDE, x : x + SIDE]).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(PICTURES)]


def alone(folder: Path, names: Sequence[str]) -> dict[tuple[str, str], str]:
    """(picture, question) -> the answer when nobody else asks."""
    from slidekick.copilot import Copilot
    from slidekick.data import read_roi

    copilot = Copilot.from_pretrained("mini")
    return {(name, words): copilot.ask(read_roi(folder / name), words).text for name in names for words in QUESTIONS}


def loaded(folder: Path, wanted: dict[tuple[str, str], str], clients: int, seconds: float) -> dict:
    """Figures of a server that clients ask for some time."""
    with running("serve", "--folder", folder) as (address, server):
        tallies = [Tally() for _ in range(clients)]
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=_asking, args=(number, address, folder.name, wanted, tally, until))
            for number, tally in enumerate(tallies)
        ]
        for thread in threads:
            thread.start()
        memory = []
        while any(thread.is_alive() for thread in threads):
            memory.append(_resident_mb(server.pid))
            time.sleep(min(5.0, seconds / 20))
        for thread in threads:
            thread.join()
    return _summed(tallies, memory, seconds) | {"clients": clients, "minutes": round(seconds / 60, 1)}


class Tally:
    """What one client saw. took: seconds of each answer, waiting included."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.again = self.lost = self.other = 0


def _asking(
    number: int, address: str, folder: str, wanted: dict[tuple[str, str], str], tally: Tally, until: float
) -> None:
    import httpx

    rng, keys = np.random.default_rng(number), list(wanted)
    with httpx.Client(base_url=address, timeout=300) as client:
        while time.monotonic() < until:
            name, words = keys[rng.integers(len(keys))]
            begun = time.monotonic()
            while True:
                try:
                    reply = client.post("/v1/chat/completions", json=message(folder, name, words))
                except httpx.HTTPError:
                    reply = None
                if reply is None or reply.status_code != 429:
                    break
                tally.again += 1
                time.sleep(float(reply.headers["Retry-After"]) * rng.uniform(0.5, 1.0))
            if reply is None or reply.status_code != 200:
                tally.lost += 1
                continue
            tally.took.append(time.monotonic() - begun)
            tally.other += reply.json()["choices"][0]["message"]["content"] != wanted[name, words]


def _summed(tallies: Sequence[Tally], memory: Sequence[float], seconds: float) -> dict:
    took = np.array([one for tally in tallies for one in tally.took])
    later = memory[len(memory) // 3 :]  # the first third fills caches
    slope = np.polyfit(np.arange(len(later)), later, 1)[0] * len(later) if len(later) > 2 else 0.0
    return {
        "answers": len(took),
        "lost": sum(tally.lost for tally in tallies),
        "another's or otherwise said": sum(tally.other for tally in tallies),
        "told to come again": sum(tally.again for tally in tallies),
        "answers a second": round(len(took) / seconds, 2),
        "seconds an answer, median": round(float(np.median(took)), 1),
        "seconds an answer, p95": round(float(np.percentile(took, 95)), 1),
        "fewest answers of a client": min(len(tally.took) for tally in tallies),
        "memory at most, MB": round(max(memory)),
        "memory grown over the last two thirds, MB": round(float(slope), 1),
    }


def _resident_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1000


if __name__ == "__main__":
    raise SystemExit(main())
