"""Writing an answer on a CPU: mini's compiled engine beside torch's and llama.cpp, with the same weights.

All are given a prompt of as many tokens as a picture and a question take and write greedily, in turns, each in a
process of its own. mini is asked with its experts on; llama.cpp, which has none, gets a file of the same weights with
the experts of that question folded in, in its own 8 bits. Beside it the base as published, in four. Ours is told token
by token, and as turns are written: a call, of which the grammar forces most, and words, of which some are guessed.
Logits are compared on the sample pictures.

`python -m slidekick.apps.bench.decode [--json] [--rounds N] [--without llama]`
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from slidekick.apps.bench.llama_file import llama_files
from slidekick.apps.bench.peers import Peer, environment, last_line
from slidekick.apps.bench.table import Row, as_text, machine, versions

QUESTION = "How many nuclei are there?"  # answered by a call, whose JSON the grammar forces
ASKED = (QUESTION, "Which organ is this?", "Is this malignant?", "Describe this picture.", "Which stain is this?")
COUNTED = {"found": True, "count": 196}  # what the tool answers
STEPS = 48  # tokens written where only pace counts
LLAMA = Peer(
    "llama-cpp-python",
    "0.3.36",
    ("numpy==2.4.3", "typing-extensions==4.16.0", "diskcache==5.6.3", "jinja2==3.1.6", "markupsafe==3.0.3"),
    """
import json, sys, time
import llama_cpp as ll
import numpy as np

job = json.loads(sys.argv[1])
threads = job["threads"]
model = ll.Llama(model_path=job["file"], n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)

def fed(ids):
    tokens = (ll.llama_token * len(ids))(*ids)
    # llama.cpp itself: the package's own sampling takes as long as a step
    if ll.llama_decode(model.ctx, ll.llama_batch_get_one(tokens, len(ids))):
        raise RuntimeError("llama_decode failed")
    return int(np.ctypeslib.as_array(ll.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),)).argmax())

def run():
    ll.llama_memory_clear(ll.llama_get_memory(model.ctx), True)
    begun = time.perf_counter()
    token = fed(job["ids"])
    read = time.perf_counter()
    for _ in range(job["steps"]):
        token = fed([token])
    return {"read_s": read - begun, "write_s": time.perf_counter() - read, "tokens": job["steps"]}
""",
    bare=("llama-cpp-python==0.3.36",),
)
OURS, CALL, WORDS = "a token a step", "a call", "words behind its result"
TORCH, LLAMA_OURS, LLAMA_BASE = "HF generate, float32", f"llama.cpp Q8_0, {LLAMA.told}", "llama.cpp Q4_1, the base"
GOALS = {TORCH: 8.0, LLAMA_OURS: 1.5}
PACKAGES = ("slidekick", "onnxruntime", "openvino", "torch", "transformers")
ANSWERING = """
run()
print("ready", flush=True)
for _ in sys.stdin:
    print(json.dumps(run()), flush=True)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all in turns and print the table; 2 for what a user can mend."""
    from slidekick.data.errors import SlidekickError

    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.decode", description="Measure how fast mini writes.")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each; the median counts (7)")
    parser.add_argument("--without", nargs="*", default=(), choices=("llama", "torch"), help="peers to leave out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.worker:
        return work(args.worker)
    try:
        told = measured(args.rounds, args.without)
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    facts = {**told, "versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=1) if args.json else table(facts))
    return 0


def table(facts: dict) -> str:
    """For people: the rows, and how ours and torch's agree."""
    lines = [as_text(facts)]
    if facts["agree"]:
        lines.append(
            "logits correlate {logits_correlate}, probabilities differ by {probability_differs} at most, the same turn "
            "for {same_turns} questions".format(**facts["agree"])
        )
    return "\n".join(lines)


def rows_of(pace: Mapping[str, Mapping], best: float | None) -> list[dict]:
    """Ours token by token, and as answers are written, beside each peer. best: tokens a second that reading the weights
    once a token allows."""
    rows = []
    for ours, goals, most in ((OURS, GOALS, best), (CALL, {}, None), (WORDS, {}, None)):
        for peer, least in ((TORCH, goals.get(TORCH)), (LLAMA_OURS, goals.get(LLAMA_OURS)), (LLAMA_BASE, None)):
            if peer in pace:
                figures = pace[ours]["tokens_s"], pace[peer]["tokens_s"]
                rows.append(Row("writing", ours, "tokens/s", figures[0], peer, figures[1], least=least, best=most))
    return [row.to_dict() for row in rows]


def measured(rounds: int, without: Sequence[str] = ()) -> dict:
    """Figures of each, in medians over `rounds` turns, and how logits and words of ours and torch's agree."""
    from slidekick.data.files import cache_dir

    own = [sys.executable, "-m", "slidekick.apps.bench.decode", "--worker"]
    commands = {OURS: [*own, "ours"], CALL: [*own, "call"], WORDS: [*own, "words"]}
    if "torch" not in without:
        commands |= {TORCH: [*own, "torch"]}
    if "llama" not in without:
        folder = cache_dir() / "peers" / "files"
        python, ids = environment(LLAMA), prompt_ids()
        for name, file in zip((LLAMA_OURS, LLAMA_BASE), llama_files(folder, question_gates), strict=True):
            job = {"file": str(file), "ids": ids, "steps": STEPS, "threads": os.cpu_count()}
            commands[name] = [str(python), "-c", LLAMA.code + ANSWERING, json.dumps(job)]
    runs = {name: Worker(command) for name, command in commands.items()}
    times: dict[str, list[dict]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, worker in runs.items():
            times[name].append(worker.turn())
        print(".", end="", file=sys.stderr, flush=True)
    for worker in runs.values():
        worker.close()
    pace = {name: _figures(made) for name, made in times.items()}
    agree = None if "torch" in without else agreement()
    return {"rows": rows_of(pace, read_rate() / weights_read()), "pace": pace, "agree": agree}


def weights_read() -> int:
    """Bytes that a step reads at the least: the weights of the graph, once."""
    from slidekick.copilot.compiled.graph import WEIGHTS

    return (_engine("compiled").language.folder / WEIGHTS).stat().st_size


def read_rate() -> float:
    """Bytes a second that all cores together read of memory: sums over arrays that no cache holds, best of five."""
    from concurrent.futures import ThreadPoolExecutor

    from slidekick.apps.bench.smoke import seconds
    from slidekick.grounding.runtime import cores

    parts = [np.ones(2**26, np.float32) for _ in range(cores())]  # 256 MB each
    with ThreadPoolExecutor(len(parts)) as pool:
        spent = [seconds(lambda: list(pool.map(np.max, parts))) for _ in range(5)]
    return sum(part.nbytes for part in parts) / min(spent)


def _figures(made: Sequence[Mapping]) -> dict:
    return {
        "tokens_s": round(median(one["tokens"] / one["write_s"] for one in made), 1),
        "read_ms": round(1000 * median(one["read_s"] for one in made), 1),
        "tokens": made[0]["tokens"],
    }


class Worker:
    """A process that measures once for each line it is sent, and is stopped between: OpenMP's threads would spin while
    another is measured. Raises SourceError where it falls over."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        # OpenMP's own default: waiting threads that sleep, as our commands want them, halve the peers' pace.
        spinning = {**os.environ, "OMP_WAIT_POLICY": "ACTIVE"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=spinning)
        self._line()
        self._process.send_signal(signal.SIGSTOP)

    def turn(self) -> dict:
        """{"read_s", "write_s", "tokens"} of one measurement."""
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = json.loads(self._line())
        self._process.send_signal(signal.SIGSTOP)
        return told

    def _line(self) -> str:
        from slidekick.data.errors import SourceError

        line = self._process.stdout.readline()
        if not line:
            raise SourceError(f"a peer fell over: {last_line(self._process.stderr.read())}")
        return line

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


# ---- what is measured of ours and of torch's, each in its process


def work(name: str) -> int:
    """Measure once for each line on stdin."""
    run = {"ours": _ours, "call": _call, "words": _words, "torch": _torch}[name]()
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)
    return 0


def _asked(question: str = QUESTION):
    from slidekick.copilot.messages import user_message
    from slidekick.data.samples import sample
    from slidekick.data.slide import read_roi

    return [user_message(question, with_image=True)], read_roi(sample("ihc")).pixels


def _engine(runtime: str):
    from slidekick.copilot.engines import load_engine

    return load_engine("mini", {"nucleus": "nucleus", "nuclei": "nucleus"}, runtime)


def _ours():
    import time

    from slidekick.copilot.tools import tool_schemas

    engine, (messages, pixels) = _engine("compiled"), _asked()
    prompt = engine._prompt(messages, pixels, tool_schemas())
    everything = np.ones(engine.language.shape.words, bool)

    def run() -> dict:
        cache = engine.language.cache(1, len(prompt.ids) + STEPS)
        cache.speak(prompt.gates)
        begun = time.perf_counter()
        said = cache.step(prompt.embeds[None])[0][0]
        read = time.perf_counter()
        for _ in range(STEPS):
            said = cache.step(engine.language.embed([said.likeliest(everything)])[None])[0][0]
        return {"read_s": read - begun, "write_s": time.perf_counter() - read, "tokens": STEPS}

    return run


def _call():
    return _turn(*_asked())


def _words():
    from slidekick.copilot.answer import Step
    from slidekick.copilot.messages import step_messages

    messages, pixels = _asked()
    return _turn([*messages, *step_messages(Step("t1", "count", {"concept": "nucleus"}, COUNTED, 0.1))], pixels)


def _turn(messages: list[dict], pixels: np.ndarray):
    import time

    from slidekick.copilot.tools import tool_schemas

    engine = _engine("compiled")

    def run() -> dict:
        engine._kept.clear()
        begun = time.perf_counter()
        engine._read(engine._prompt(messages, pixels, tool_schemas()), 1)
        read = time.perf_counter()
        *_, turn = engine.turn(messages, pixels, tool_schemas())  # the prompt is kept
        return {"read_s": read - begun, "write_s": time.perf_counter() - read, "tokens": len(turn.tokens) + 1}

    return run


def _torch():
    import time

    import torch

    from slidekick.copilot.tools import tool_schemas

    engine, (messages, pixels) = _engine("torch"), _asked()

    def run() -> dict:
        with torch.inference_mode():
            inputs = engine.encode(messages, pixels, tool_schemas())
            with engine.experts.speaking(engine._routed(messages, inputs)):
                begun = time.perf_counter()
                engine.model(**inputs)
                read = time.perf_counter()
                engine.model.generate(**inputs, min_new_tokens=STEPS, max_new_tokens=STEPS, do_sample=False)
        written = time.perf_counter() - read - (read - begun)  # generate reads the prompt anew
        return {"read_s": read - begun, "write_s": written, "tokens": STEPS}

    return run


def prompt_ids() -> list[int]:
    """The prompt as token ids, the picture's placeholders among them: as many as ours reads."""
    from slidekick.copilot.tools import tool_schemas

    messages, _ = _asked()
    return _engine("compiled").prompts.encode(messages, tool_schemas())


def question_gates() -> np.ndarray:
    """(K,): how the question's experts are weighed."""
    from slidekick.copilot.tools import tool_schemas

    return _engine("compiled")._prompt(*_asked(), tool_schemas()).gates[0]


def agreement() -> dict:
    """Ours against torch's on the sample picture: correlation of logits behind the prompt, the largest difference of
    probability, and whether the whole turns are the same."""
    import torch

    from slidekick.copilot.tools import tool_schemas

    ours, theirs = _engine("compiled"), _engine("torch")
    correlations, differences, same = [], [], []
    for question in ASKED:
        messages, pixels = _asked(question)
        mine = ours._read(ours._prompt(messages, pixels, tool_schemas()), 1)[1].logits
        inputs = theirs.encode(messages, pixels, tool_schemas())
        with torch.inference_mode(), theirs.experts.speaking(theirs._routed(messages, inputs)):
            other = theirs.model(**inputs).logits[0, -1].numpy()
        correlations.append(float(np.corrcoef(mine, other)[0, 1]))
        differences.append(float(np.abs(_softmax(mine) - _softmax(other)).max()))
        turns = [list(one.turn(messages, pixels, tool_schemas()))[-1].text for one in (ours, theirs)]
        same.append(turns[0] == turns[1])
    return {
        "logits_correlate": round(min(correlations), 5),
        "probability_differs": round(max(differences), 4),
        "same_turns": f"{sum(same)} of {len(same)}",
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


if __name__ == "__main__":
    sys.exit(main())
