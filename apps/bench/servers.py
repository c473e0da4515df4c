"""A `slidekick` server in a process of its own, and one that is asked about every picture of a folder.

`python -m slidekick.apps.bench.servers FOLDER OUT` writes what is answered, a JSON a question; what is there already is
not asked again.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from slidekick.apps.serving.running import address_of, taken

QUESTIONS = ("How many nuclei are there?", "Is there a gland?", "What does this picture show?")
PORTS = range(8479, 8579)  # of which the first free one is taken
BEGIN_S = 300.0  # most that loading takes, on a busy machine


@contextlib.contextmanager
def running(
    command: str, *words: str | Path, port: int | None = None, end: signal.Signals = signal.SIGTERM
) -> Iterator[tuple[str, subprocess.Popen]]:
    """(address, process) of `slidekick serve` or `chat` once it answers; `end` is sent to it after the block.

    words: its options but the port. port: the first free one where None. Raises RuntimeError with what it said where it
    ends before it answers or takes longer than `BEGIN_S`.
    """
    with taken("127.0.0.1", PORTS if port is None else range(port, port + 1)) as place:
        address, port = address_of(place), place.getsockname()[1]
    line = [sys.executable, "-m", "slidekick.apps.cli", command, "--port", str(port), *map(str, words)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said)
        try:
            if not _answers(address, process):
                said.seek(0)
                raise RuntimeError(f"{command} does not begin: {said.read().decode(errors='replace')}")
            yield address, process
        finally:
            process.send_signal(end)
            process.wait(60)


def _answers(address: str, process: subprocess.Popen) -> bool:
    """Whether it does, waited for."""
    import httpx

    until = time.monotonic() + BEGIN_S
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}healthz").status_code == 200:
                return True
        time.sleep(0.3)
    return False


def message(folder: str, name: str, question: str) -> dict:
    """A request's body: a question about a picture of a folder that the server opened."""
    content = [{"type": "slide", "slide": {"name": f"{folder}/{name}"}}, {"type": "text", "text": question}]
    return {"model": "mini", "messages": [{"role": "user", "content": content}]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and keep; 0 where all was answered, 2 where the server is lost or an answer cannot be kept."""
    import httpx

    from slidekick.data.errors import SlidekickError
    from slidekick.data.files import write_atomic

    folder, out = map(Path, sys.argv[1:] if arguments is None else arguments)
    try:
        with (
            running("serve", "--folder", folder) as (address, _),
            httpx.Client(base_url=address, timeout=300) as client,
        ):
            for picture in sorted(folder.glob("*.png")):
                for number, question in enumerate(QUESTIONS):
                    if (file := out / f"{picture.stem}-{number}.json").is_file():
                        continue
                    reply = client.post("/v1/chat/completions", json=message(folder.name, picture.name, question))
                    reply.raise_for_status()
                    write_atomic(file, json.dumps(reply.json()["choices"], indent=1))
    except (SlidekickError, httpx.HTTPError, RuntimeError) as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
