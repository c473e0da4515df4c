import json

import pytest

from slidekick.data.errors import InputError
from slidekick.data.items import load_items


def make_set(root, name: str, *lines: dict | str):
    """A set's folder with one picture and the given lines; a dict is completed to a whole item."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"picture")
    whole = {"id": "1", "image": "a.png", "split": "train", "group": "g"}
    text = [line if isinstance(line, str) else json.dumps(whole | line) for line in lines]
    (folder / "items.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


def test_every_field_of_a_line_is_kept_with_its_type(tmp_path):
    line = {
        "mask": "a.png",
        "classes": {"1": "nucleus"},
        "boxes": [[1, 2, 3, 4, "cell"]],
        "points": [[5, 6.5, "cell"]],
        "mpp": 0.5,
        "label": None,
        "note": "kept",
    }
    (item,) = load_items(make_set(tmp_path, "glands", line))
    assert (item.set, item.id, item.split, item.group) == ("glands", "1", "train", "g")
    assert item.image == item.mask == tmp_path.resolve() / "glands" / "a.png"
    assert item.classes == {1: "nucleus"}
    assert item.boxes == ((1, 2, 3, 4, "cell"),)
    assert item.points == ((5, 6.5, "cell"),)
    assert (item.mpp, item.label, item.extra) == (0.5, None, {"note": "kept"})


def test_a_folder_of_sets_a_set_and_a_file_all_serve(tmp_path):
    make_set(tmp_path, "b", {"id": "b1"})
    folder = make_set(tmp_path, "a", {"id": "a1"}, "", {"id": "a2", "split": "test"})
    assert [item.id for item in load_items(tmp_path)] == ["a1", "a2", "b1"]
    assert [item.id for item in load_items(folder)] == ["a1", "a2"]
    assert [item.id for item in load_items(folder / "items.jsonl", split="test")] == ["a2"]
    assert [item.id for item in load_items(tmp_path, sets=["b", "a"], split="train")] == ["b1", "a1"]


def test_slides_listed_beside_pictures_are_passed_over(tmp_path):
    folder = make_set(tmp_path, "a", json.dumps({"id": "s", "file": "x.svs", "split": "test", "label": True}))
    assert load_items(folder) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "Expecting"),
        ("[]", "not a JSON object"),
        ('{"id": "1", "image": "a.png"}', "'split' is missing"),
        ({"split": "dev"}, "split is 'dev', not one of train, val, test"),
        ({"image": "b.png"}, "image 'b.png' is not there"),
        ({"image": "b" * 5000}, "is not there"),
        ({"label": 3}, "label is 3, not text"),
        ({"classes": {"one": "nucleus"}}, "invalid literal"),
        ({"boxes": [[1, 2, 3, "cell"]]}, "boxes holds .* not 4 numbers and a label"),
        ({"points": [["x", 2, "cell"]]}, "points holds .* not 2 numbers and a label"),
        ({"points": 3}, "not iterable"),
        ({"mpp": 0}, "mpp is 0, not a positive number"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, told):
    folder = make_set(tmp_path, "a", {}, line)
    with pytest.raises(InputError, match=rf"items\.jsonl:2: .*{told}.*; mend or remove the line"):
        load_items(folder)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"sets": ["c"]}, "no set named 'c'; there are a"),
        ({"split": "dev"}, "split 'dev' is unknown; use one of train"),
    ],
)
def test_unknown_sets_and_splits_are_told_with_the_known_ones(tmp_path, arguments, told):
    make_set(tmp_path, "a", {})
    with pytest.raises(InputError, match=told):
        load_items(tmp_path, **arguments)


def test_a_list_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    folder = make_set(tmp_path, "a", {})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(InputError, match=r"items\.jsonl: cannot be read \(permission denied\); check its rights"):
        load_items(folder)


def test_a_place_without_items_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no items\.jsonl in it"):
        load_items(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        load_items(tmp_path / "missing")
