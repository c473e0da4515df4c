"""Damaged files of every kind but slides are read or refused in one line; what once fell over stays mended."""

import json

import numpy as np
import pytest

from slidekick.apps.bench import fuzz
from slidekick.apps.bench.fuzz_kinds import DEEP, KINDS, PREFIX, answered, folder_of, mutated, read, write_sound
from slidekick.data.errors import InputError

INPUTS = 450  # ten of each file


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_sound(tmp_path_factory.mktemp("sound"))


def test_every_kind_is_sound_before_it_is_damaged(sound):
    files = fuzz.files_of(sound)
    assert len(files) > 35
    assert [(path.name, fuzz.attempt(path)) for path in files if fuzz.attempt(path)[0] != "read"] == []


def test_sound_requests_reach_the_model(sound):
    folder = sound / f"{PREFIX}requests"
    bodies = sorted(folder.glob("*.json"))
    assert [answered(body, folder).status_code for body in bodies] == [200] * len(bodies)
    assert len(bodies) == 3


def test_damaged_files_of_every_kind_are_read_or_refused_in_one_line(sound):
    cases = list(fuzz.run_cases(fuzz.files_of(sound), range(INPUTS), seed=4))
    assert [fuzz.as_text([case]) for case in cases if not case.held] == []
    assert {case.outcome for case in cases} == {"read", "refused"}


@pytest.fixture
def put(sound, tmp_path):
    """put(kind, file, change) -> the file's path, changed, among sound ones of its kind."""
    import shutil

    def put(kind, name, change):
        folder = shutil.copytree(sound / f"{PREFIX}{kind}", tmp_path / f"{PREFIX}{kind}")
        path = folder / name
        if not isinstance(change, str):
            text = path.read_text()
            data = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
            change(data)
            change = json.dumps(data)
        path.write_text(change)
        return path

    return put


def set_at(*steps, value):
    def change(data):
        for step in steps[:-1]:
            data = data[step]
        data[steps[-1]] = value

    return change


FELL_OVER = (
    ("items", "items.jsonl", set_at("classes", value=1e308)),
    ("items", "items.jsonl", f'{{"id": {DEEP}}}'),
    ("model", "experts/experts.json", set_at("names", value=[])),
    ("model", "experts/experts.json", set_at("top", value="two")),
    ("model", "experts/experts.json", f'{{"names": {DEEP}}}'),
    ("model", "experts/router.safetensors", "{}"),
    ("model", "config.json", DEEP),
    ("model", "confidence.json", DEEP),
    ("report", "report.json", set_at("facts", 0, "evidence", value=[[]])),
    ("report", "report.json", set_at("mpp", value=["\ud83d", 1])),
    ("report", "report.json", set_at("steps", value=3)),
)


@pytest.mark.parametrize(("kind", "name", "change"), FELL_OVER, ids=lambda one: str(one)[:30])
def test_what_fell_over_is_refused(put, sound, kind, name, change):
    if name.endswith(".safetensors"):  # no JSON to change
        import shutil

        path = put(kind, "experts/experts.json", lambda data: None).parent / "router.safetensors"
        shutil.copy(sound / f"{PREFIX}{kind}" / name, path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path = put(kind, name, change)
    with pytest.raises(InputError) as told:
        read(path, folder_of(path))
    assert "\n" not in str(told.value)


def test_a_mutation_changes_one_value_of_a_json_and_nothing_of_what_is_none():
    data = {"a": [1, {"b": "c"}], "d": None}
    made = {mutated(json.dumps(data).encode(), np.random.default_rng(number))[0] for number in range(80)}
    assert len(made) > 40
    assert mutated(b"\x89PNG", np.random.default_rng(0)) == (b"\x89PNG", "no JSON")
    lines = mutated(b'{"id": 1}\n{"id": 2}', np.random.default_rng(1))[0]
    assert b"\n" in lines


def test_kinds_are_known_by_their_folders_alone(tmp_path):
    assert folder_of(tmp_path / "items" / "a.svs") is None
    assert folder_of(tmp_path / f"{PREFIX}model" / "experts" / "a.json") == tmp_path / f"{PREFIX}model"
    assert {"geojson", "items", "model", "segmentor", "texts", "report", "requests"} == set(KINDS)
