"""What is fuzzed beside slides and pictures: sound files of every kind that a user or a stranger may hand over, and how
each is read.

A kind is a folder of sound files; one of them is damaged, the others stay, and its reader must take it or refuse it in
one line. Text is damaged by what it means as well: a value of a JSON file gives way to one that nobody expects.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

PREFIX = "fuzz-"  # of the folders, so that no folder of slides is taken for one
TEXTS = (".json", ".jsonl", ".geojson")
# What stands where something else is expected.
NASTY = (
    None, True, -1, 0, 1, 2**63, -(2**70), 1e308, -0.0, 0.1, "", "\0", "../../x", "ZQX" * 2000, "\ud83d", "９", "NaN",
    [], [[]], [None], {}, {"": 0}, [0] * 4000, {"type": "Point"},
)  # fmt: skip
DEEP = "[" * 3000 + "]" * 3000


def mutated(content: bytes, rng) -> tuple[bytes, str]:
    """JSON, or lines of it, with one value in another's place, left out or nested deep; and how. Content that
    is no JSON comes back as it is."""
    try:
        lines = [json.loads(line) for line in content.decode().splitlines()] if b"\n{" in content else None
        data = json.loads(content) if lines is None else lines
    except ValueError:
        return content, "no JSON"
    places = list(_places(data, ()))
    path = places[rng.integers(len(places))]
    kind = ("put", "put", "put", "drop", "deep")[rng.integers(5)]
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    if kind == "drop":
        del holder[path[-1]]
        told = "left out"
    else:
        index = int(rng.integers(len(NASTY)))
        holder[path[-1]] = "@deep@" if kind == "deep" else NASTY[index]
        told = "nested" if kind == "deep" else f"value {index}"
    rows = data if lines is not None else [data]
    text = "\n".join(json.dumps(row).replace('"@deep@"', DEEP) for row in rows)
    return text.encode("utf-8", "surrogatepass"), f"{told} at {'.'.join(map(str, path))[:60]}"


def _places(data: object, path: tuple):
    """The path of every value in nested lists and mappings."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from _places(value, (*path, key))


def write_sound(folder: Path) -> Path:
    """A folder of each kind with its sound files."""
    for name, (write, _) in KINDS.items():
        (place := folder / f"{PREFIX}{name}").mkdir(parents=True)
        write(place)
    return folder


def folder_of(path: Path) -> Path | None:
    """The folder of its kind that a file lies in; None for a file of no kind, a slide."""
    return next((one for one in path.parents if one.name.startswith(PREFIX)), None)


def read(path: Path, folder: Path) -> None:
    """Read a file of a kind as its users do. Raises SlidekickError where it is refused."""
    KINDS[folder.name.removeprefix(PREFIX)][1](path, folder)


# ---- annotations and items


def _write_geojson(folder: Path) -> None:
    import numpy as np

    from slidekick.data.files import write_atomic
    from slidekick.grounding.export import to_geojson
    from slidekick.grounding.finding import Finding

    labels = np.zeros((64, 80), np.int32)
    labels[4:12, 4:12], labels[20:40, 16:44] = 1, 2
    found = Finding("nucleus", labels > 0, 0.9, 0.99, labels, prompt="nuclei")
    write_atomic(folder / "found.geojson", json.dumps(to_geojson([found], _roi())))
    areas = {"type": "FeatureCollection", "features": [_feature("Polygon", name) for name in ("Tumor", "Ignore*")]}
    areas["features"] += [_feature("Point", "Tumor: Positive"), _feature("MultiPolygon", "gland")]
    write_atomic(folder / "qupath.geojson", json.dumps(areas))


def _feature(kind: str, name: str) -> dict:
    ring = [[2, 2], [30, 2], [30, 30], [2, 30], [2, 2]]
    places = {"Polygon": [ring], "MultiPolygon": [[ring], [[[40, 40], [50, 40], [50, 50], [40, 40]]]], "Point": [5, 5]}
    about = {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}}
    return {"type": "Feature", "id": name, "geometry": {"type": kind, "coordinates": places[kind]}, "properties": about}


def _read_geojson(path: Path, folder: Path) -> None:
    from slidekick.grounding.annotations import from_geojson, prompts_by_class
    from slidekick.grounding.geojson import read_geojson

    shapes = list(read_geojson(path))
    prompts_by_class(shapes, _roi())
    from_geojson(shapes, _roi())


def _roi():
    import numpy as np

    from slidekick.data.slide import Region, Roi

    return Roi(np.full((64, 80, 3), 200, np.uint8), (0.5, 0.5), Region(0, 0, 80, 64), "a.png")


def _write_items(folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 90, 160)).save(folder / "a.png")
    Image.new("L", (64, 64), 1).save(folder / "a-mask.png")
    whole = {"id": "a", "image": "a.png", "split": "train", "group": "p1", "organ": "colon", "stain": "H&E",
             "label": "colon adenocarcinoma", "mask": "a-mask.png", "classes": {"0": "other", "1": "gland"}, "mpp": 0.5,
             "boxes": [[1, 2, 30, 40, "gland"]], "points": [[5, 6, "nucleus"]],
             "attributes": {"grade": "low"}}  # fmt: skip
    bare = {"id": "b", "image": "a.png", "split": "test", "label": "lung"}
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, (whole, bare))), encoding="utf-8")


def _read_items(path: Path, folder: Path) -> None:
    from slidekick.data.items import load_items

    load_items(folder)


# ---- models


def _write_model(folder: Path) -> None:
    """The weights of a small language model and its experts, and of what lies beside mini's."""
    import numpy as np
    from safetensors.numpy import save_file

    from slidekick.copilot.mini import ABOUT, ADAPTER_FILE, EXPERTS, GUESSES, ROUTER, SIGHT, TOWER, WEIGHTS

    rng = np.random.default_rng(0)
    shapes = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
              "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32),
              "mlp.down_proj": (32, 48)}  # fmt: skip
    arrays = {f"layers.0.{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {f"layers.0.{name}.weight": np.ones(32) for name in ("input_layernorm", "post_attention_layernorm")}
    arrays |= {"embed_tokens.weight": rng.normal(size=(40, 32)), "norm.weight": np.ones(32)}
    text = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "hidden_size": 32,
            "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 48,
            "vocab_size": 40, "rms_norm_eps": 1e-5, "rope_theta": 1e4}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"text_config": text}))
    prefix = "model.language_model."
    save_file({prefix + name: array.astype(np.float16) for name, array in arrays.items()}, folder / "model.safetensors")
    pairs = {f"base_model.model.{prefix}layers.0.{name}.lora_{side}.weight": rng.normal(size=size).astype(np.float16)
             for name, (out, into) in shapes.items() for side, size in (("A", (2, into)), ("B", (out, 2)))}  # fmt: skip
    save_file(pairs, folder / ADAPTER_FILE)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    experts = folder / EXPERTS
    names = ("first", "second", "third", "fourth")  # as many as mini's router tells apart
    for name in names:
        (experts / name).mkdir(parents=True)
        save_file(pairs, experts / name / ADAPTER_FILE)
    (experts / ABOUT).write_text(json.dumps({"names": names, "rank": 2, "alpha": 4, "top": 2}))
    (folder / TOWER).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for name in (f"{EXPERTS}/{ROUTER}", SIGHT, GUESSES, "confidence.json"):
        shutil.copy(WEIGHTS / name, folder / name)


def _read_model(path: Path, folder: Path) -> None:
    from slidekick.copilot.compiled.guesses import load_guesses
    from slidekick.copilot.compiled.router import Router
    from slidekick.copilot.compiled.weights import read_language
    from slidekick.copilot.confidence import load_confidence
    from slidekick.copilot.mini import EXPERTS
    from slidekick.copilot.sight import load_taught

    read_language(folder, folder, {})
    Router(folder / EXPERTS)
    load_confidence(folder)
    load_taught(folder)
    load_guesses(folder)


def _write_segmentor(folder: Path) -> None:
    from slidekick.grounding.segmentor import CARD, CONFIG, MODEL, PHRASES, WEIGHTS

    for name in (CARD, CONFIG, PHRASES, MODEL):
        shutil.copy(WEIGHTS / name, folder)


def _read_segmentor(path: Path, folder: Path) -> None:
    from slidekick.grounding.segmentor import Segmentor

    Segmentor.from_pretrained(folder, runtime="torch")  # compiling strange weights takes its time, and should


# ---- texts: configurations, forms, checklists, reports, turns


def _write_texts(folder: Path) -> None:
    from slidekick.copilot.reports import checklist, forms
    from slidekick.grounding import segmentor
    from slidekick.rl.launch import CONFIGS

    for name in ("mini.yaml", "experts.yaml", "grpo.yaml"):
        shutil.copy(CONFIGS / name, folder)
    shutil.copy(Path(segmentor.__file__).parent / "configs" / "segmentor.yaml", folder)
    for path in Path(forms.__file__).parent.rglob(f"*{forms.SUFFIX}"):
        shutil.copy(path, folder)
    shutil.copy(checklist.EXAMPLE, folder / "checklist.yaml")
    (folder / "turn.txt").write_text('<tool_call>\n{"name": "count", "arguments": {"concept": "nuclei"}}\n</tool_call>')


def _read_text(path: Path, folder: Path) -> None:
    from slidekick.copilot.grammar import CallError, parse_turn
    from slidekick.copilot.reports import checklist, forms
    from slidekick.copilot.tools import Toolbox
    from slidekick.data.configuration import read_yaml
    from slidekick.grounding.train import load_config

    if path.name.endswith(forms.SUFFIX):
        forms.load_form(str(path))
    elif path.name == "checklist.yaml":
        checklist.load_checklist(path, None)
    elif path.name == "segmentor.yaml":
        load_config(path)
    elif path.suffix == ".yaml":
        read_yaml(path)
    else:
        try:
            call = parse_turn(path.read_text(encoding="utf-8", errors="replace"))
        except CallError:
            return
        if call is not None:
            Toolbox(_Finder(), _roi()).call(call.name, call.arguments, "t1")


def _write_report(folder: Path) -> None:
    from slidekick.copilot import Copilot
    from slidekick.copilot.reports.files import write_report
    from slidekick.copilot.reports.report import draft_report

    write_report(draft_report(Copilot(_Silent(), _Finder()), _roi(), ["nucleus"]), folder)
    for path in folder.iterdir():
        if path.suffix not in (".json", ".md", ".png"):
            path.unlink()


def _read_report(path: Path, folder: Path) -> None:
    from slidekick.copilot.reports.files import read_report, to_html, to_markdown

    report = read_report(folder)
    to_markdown(report)
    to_html(report)


# ---- bodies of requests


class _Finder:
    """One nucleus; knows no other word."""

    class vocabulary:
        """What it knows."""

        concepts = {"nucleus": None}  # noqa: RUF012
        words = {"nucleus": "nucleus", "nuclei": "nucleus"}  # noqa: RUF012

    def segment(self, image, concepts, *, mpp=None):
        """See `Segmentor.segment`."""
        import numpy as np

        from slidekick.grounding.finding import Finding

        labels = np.zeros(image.shape[:2], np.int32)
        labels[2:6, 2:6] = 1
        return [Finding("nucleus", labels > 0, 0.9, 0.99, labels, prompt=str(words)) for words in concepts]


class _Silent:
    """Says the same whatever it is asked."""

    name, history = "silent", 4

    def turn(self, messages, image, tools, *, calls=True):
        """See `Engine.turn`."""
        from slidekick.copilot.turn import Turn

        yield Turn("colon", 0.9)


def _write_requests(folder: Path) -> None:
    import base64
    import io

    from PIL import Image

    Image.new("RGB", (64, 64), (200, 90, 160)).save(folder / "a.png")
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 90, 160)).save(stream, "png")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    picture = {"type": "image_url", "image_url": {"url": url}}
    slide = {"type": "slide", "slide": {"name": f"{folder.name}/a.png", "region": [0, 0, 40, 30], "mpp": 0.5}}
    words = {"type": "text", "text": "Which organ is this?"}
    tool = {"type": "function", "function": {"name": "count", "arguments": '{"concept": "nucleus"}'}, "id": "c1"}
    own = {"type": "function", "function": {"name": "count", "description": "Count.", "parameters": {"type": "object"}}}
    talk = [
        {"role": "user", "content": [picture, words]},
        {"role": "assistant", "content": None, "tool_calls": [tool]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"count": 1}'},
        {"role": "assistant", "content": "There is 1 nucleus."},
        {"role": "user", "content": "Which organ?"},
    ]
    asked = {"model": "silent", "messages": [{"role": "user", "content": [slide, words]}], "stream": False, "n": 1,
             "temperature": 0, "max_tokens": 40, "user": "me", "response_format": {"type": "text"}}  # fmt: skip
    sought = {"image_url": {"url": url, "mpp": 0.5}, "concepts": ["nucleus"], "format": "geojson"}
    bodies = {
        "chat-talk": {"model": "silent", "messages": talk, "tools": [own]},
        "chat-slide": asked,
        "segment": sought,
    }
    for name, body in bodies.items():
        (folder / f"{name}.json").write_text(json.dumps(body))


def answered(path: Path, folder: Path):
    """What the server answers to a body."""
    route = "/v1/segment" if path.name == "segment.json" else "/v1/chat/completions"
    return _client(folder).post(route, content=path.read_bytes(), headers={"Content-Type": "application/json"})


def _read_request(path: Path, folder: Path) -> None:
    reply = answered(path, folder)
    if reply.status_code >= 500 or b"Traceback" in reply.content:
        raise RuntimeError(f"{reply.status_code}: {reply.text[:160]}")


_CLIENTS: dict[Path, object] = {}


def _client(folder: Path):
    if folder not in _CLIENTS:
        from fastapi.testclient import TestClient

        from slidekick.apps.serving.app import build
        from slidekick.apps.serving.folders import Folders
        from slidekick.apps.serving.guard import Keys
        from slidekick.apps.serving.server import Server, Settings
        from slidekick.copilot import Copilot

        server = Server(Copilot(_Silent(), _Finder()), Folders([folder]), Keys({}), Settings())
        _CLIENTS[folder] = TestClient(build(server), raise_server_exceptions=False)
        _CLIENTS[folder].__enter__()
    return _CLIENTS[folder]


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], None]]] = {
    "geojson": (_write_geojson, _read_geojson),
    "items": (_write_items, _read_items),
    "model": (_write_model, _read_model),
    "segmentor": (_write_segmentor, _read_segmentor),
    "texts": (_write_texts, _read_text),
    "report": (_write_report, _read_report),
    "requests": (_write_requests, _read_request),
}
