"""Questions out of files of other tools, and answers into them."""

import base64
import csv
import io
import json

import pytest
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.rl.evaluation.formats import field, read_questions, to_tsv


def png(shade: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (shade,) * 3).save(stream, format="PNG")
    return stream.getvalue()


def write_tsv(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def lines(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "p.png").write_bytes(png())
    rows = [{"id": "1", "question": "Is it?", "answer": "yes", "image": "p.png", "group": "g", "split": "test"},
            {"id": "2", "question": "What?", "answer": "a\u2028gland", "split": "val"},
            {"id": "3", "question": "Which?", "answer": "B", "options": ["gland", "stroma"]},
            {"id": "4", "report": "Gland, benign.", "split": "test"}]  # fmt: skip
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return folder


def test_json_lines_give_the_questions_of_a_split(lines):
    first, third = read_questions(lines, "vqa", "test")
    assert (first.id, first.kind, first.group, first.picture) == ("set/1", "yes_no", "g", lines / "p.png")
    assert (third.kind, third.truth, third.picture) == ("choice", "B", None), "a line without a split is a test one"
    assert [one.id for one in read_questions(lines, "vqa", "val")] == ["set/2"]
    assert [one.truth for one in read_questions(lines.parent, "report", "test", ["set"])] == ["gland benign"]


@pytest.mark.parametrize(
    ("line", "told"),
    [("{", "items.jsonl:1"), ("[]", "not a JSON object"),
     ('{"question": "Q", "answer": "C", "options": ["a", "b"]}', "none of the options"),
     ('{"question": "Q", "answer": "yes", "image": "gone.png"}', "gone.png")],
)  # fmt: skip
def test_a_bad_line_is_named(lines, line, told):
    (lines / "items.jsonl").write_text(line)
    with pytest.raises(InputError, match=told):
        read_questions(lines, "vqa", "test")


def test_vlmevalkit_tables_with_pictures_inside_beside_or_shared(tmp_path):
    (tmp_path / "p.png").write_bytes(png(1))
    code = base64.b64encode(png(2) * 3).decode()
    rows = [
        {"index": 0, "image": code, "question": "Which?", "A": "gland", "B": "stroma", "answer": "B", "split": "test"},
        {"index": 1, "image": "0", "question": "Is it?", "hint": "Look.", "answer": "Yes", "split": "test"},
        {"index": 2, "image_path": "p.png", "question": "How many?", "answer": "3", "split": "test"},
        {"index": 3, "question": "Later?", "answer": "no", "split": "dev"},
    ]
    first, second, third = read_questions(write_tsv(tmp_path / "t.tsv", rows), "vqa", "test")
    assert (first.kind, first.truth, first.options, first.picture) == ("choice", "B", ("gland", "stroma"), png(2) * 3)
    assert second.picture == first.picture, "a number in place of a picture names the row that holds it"
    assert second.question == "Look.\nIs it?"
    assert (third.truth, third.picture) == (3.0, tmp_path / "p.png")
    assert [one.id for one in read_questions(tmp_path / "t.tsv", "vqa", "val")] == ["t/3"]


def test_a_picture_that_is_no_base64_is_named(tmp_path):
    rows = [{"index": 0, "image": "§" * 80, "question": "Is it?", "answer": "yes"}]
    with pytest.raises(InputError, match=r"t\.tsv:2"):
        read_questions(write_tsv(tmp_path / "t.tsv", rows), "vqa", "test")


def test_written_answers_can_be_read_as_questions_again(lines, tmp_path):
    questions = [*read_questions(lines, "vqa", "test"), *read_questions(lines, "vqa", "val")]
    rows = [
        {"id": one.id, "set": one.set, "split": "test", "group": one.group, "kind": one.kind, "change": "none",
         "options": list(one.options), "question": one.question, "truth": one.truth, "right": 0.0,
         "answer": "stroma\tor\n"}
        for one in questions
    ]  # fmt: skip
    text = to_tsv([*rows, rows[0] | {"change": "JPEG 50"}], {one.id: one.picture for one in questions}, tmp_path)
    (tmp_path / "again.tsv").write_text(text)
    again = read_questions(tmp_path / "again.tsv", "vqa", "test")
    for one, other in zip(questions, again, strict=True):
        assert (other.kind, other.question, other.truth, other.group) == (one.kind, one.question, one.truth, one.group)
        assert other.options == one.options
        assert (other.picture and other.picture.resolve()) == (one.picture and one.picture.resolve())
    first = next(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert (first["prediction"], first["hit"]) == ("stroma\tor\n", "0")


def test_pictures_in_bytes_are_written_as_base64(lines):
    row = {"id": "a", "set": "s", "split": "test", "group": "g", "kind": "number", "change": "none", "options": [],
           "question": "How many?", "truth": 3.0, "answer": "3", "right": 1.0}  # fmt: skip
    text = to_tsv([row], {"a": png()}, lines)
    told = next(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert base64.b64decode(told["image"]) == png()
    assert told["answer"] == "3"


TASK = """
task: path_task
dataset_path: json
dataset_kwargs:
  data_files: {test: rows.jsonl}
output_type: generate_until
doc_to_visual: pic
doc_to_text: "Tissue of {{ organ }}. {{ q }}"
doc_to_target: a
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "p.png").write_bytes(png())
    rows = [{"q": "Is it benign?", "organ": "colon", "a": "Yes", "pic": "p.png", "c": ["Yes", "No"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def write(text):
        (tmp_path / "task.yaml").write_text(text)
        return tmp_path / "task.yaml"

    return write


def test_an_lmms_task_is_filled_in(task, tmp_path):
    (one,) = read_questions(task(TASK), "vqa", "test")
    assert (one.set, one.question, one.kind, one.truth) == (
        "path_task",
        "Tissue of colon. Is it benign?",
        "yes_no",
        "yes",
    )
    assert one.picture == tmp_path / "p.png"
    assert read_questions(task(TASK), "vqa", "train") == []


def test_an_lmms_task_with_choices_may_name_the_right_one_by_its_place(task):
    (one,) = read_questions(task(TASK + "doc_to_choice: c\n"), "vqa", "test")
    assert (one.kind, one.truth) == ("choice", "A")
    places = TASK.replace("doc_to_target: a", 'doc_to_target: 1\ndoc_to_choice: ["Yes", "No"]')
    assert read_questions(task(places), "vqa", "test")[0].truth == "B"


@pytest.mark.parametrize("place", [2, -1])
def test_a_place_where_no_option_stands_is_told(task, place):
    places = TASK.replace("doc_to_target: a", f'doc_to_target: {place}\ndoc_to_choice: ["Yes", "No"]')
    with pytest.raises(InputError, match=f"row 1: the answer is option {place}, and there are 2"):
        read_questions(task(places), "vqa", "test")


@pytest.mark.parametrize("name", ["set.jsonl", "set.tsv"])
def test_a_file_that_is_no_text_is_told_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"index\tquestion\n1\t\xff\xfe\n")
    with pytest.raises(InputError, match=rf"{name}: cannot be read") as caught:
        read_questions(tmp_path / name, "vqa", "test")
    assert "\n" not in str(caught.value)


def test_a_path_alone_names_the_data(task):
    plain = TASK.replace("dataset_path: json", "dataset_path: rows.jsonl").replace(
        "data_files: {test: rows.jsonl}", "x: 1"
    )
    assert len(read_questions(task(plain), "vqa", "test")) == 1


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [("doc_to_text: ", "doc_to_text: !function utils.text #", "not run here"), ("{{ q }}", "{{ gone }}", "row 1"),
     ("rows.jsonl", "gone.jsonl", "gone.jsonl"), ("doc_to_target: a", "doc_to_target: gone", "no field"),
     ("doc_to_target: a", "other: a", "doc_to_target"), ("doc_to_visual: pic", "doc_to_visual: q", "not there")],
)  # fmt: skip
def test_a_task_that_cannot_be_read_says_why(task, old, new, told):
    with pytest.raises(InputError, match=told):
        read_questions(task(TASK.replace(old, new)), "vqa", "test")


def test_templates_reach_no_python():
    with pytest.raises(ValueError, match="cannot be filled in"):
        field("{{ q.__class__.__mro__[1].__subclasses__() }}", {"q": "x"})


def test_tables_hold_no_reports(tmp_path):
    with pytest.raises(InputError, match="vqa"):
        read_questions(tmp_path / "x.tsv", "report", "test")
