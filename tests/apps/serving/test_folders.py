"""Only what lies in an opened folder is found, whatever the name says."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.apps.serving.folders import MAX_NAME, MOST_LISTED, Folders, shown
from slidekick.data.errors import InputError


@pytest.fixture
def disk(tmp_path):
    """An opened folder with slides in it, and beside it what must stay unseen."""
    opened = tmp_path / "slides"
    (opened / "2024").mkdir(parents=True)
    (opened / ".git").mkdir()
    (tmp_path / "slides-secret").mkdir()
    for name in ("slides/a.svs", "slides/2024/b é.tiff", "slides/.git/x.png", "slides/.hidden.png", "slides/notes.txt",
                 "secret.png", "slides-secret/c.png", "slides/case..1.png"):  # fmt: skip
        (tmp_path / name).write_bytes(b"pixels")
    (opened / "out.png").symlink_to(tmp_path / "secret.png")
    (opened / "away").symlink_to(tmp_path / "slides-secret")
    (opened / "round.png").symlink_to(opened / "round.png")
    (opened / "within.png").symlink_to(opened / "2024" / "b é.tiff")
    os.mkfifo(opened / "pipe.png")
    return opened


def test_files_are_found_by_the_names_that_are_listed(disk):
    folders = Folders([disk])
    listed = folders.files()
    assert {"slides/a.svs", "slides/2024/b é.tiff", "slides/case..1.png"} <= set(listed)
    assert not any("hidden" in name or ".git" in name or name.endswith(".txt") for name in listed)
    assert folders.find("slides/2024/b é.tiff") == disk / "2024" / "b é.tiff"
    assert folders.find("slides/within.png") == disk / "2024" / "b é.tiff", "a link that stays inside"


ESCAPES = (
    "", "/", "slides", "slides/", "slides//a.svs", "slides/../secret.png", "slides/2024/../../secret.png",
    "../secret.png", "/etc/passwd", "slides//etc/passwd", "slides/%2e%2e/secret.png", "slides/..%2fsecret.png",
    "slides/..\\secret.png", "slides/./a.svs", "slides/.hidden.png", "slides/.git/x.png", "slides/out.png",
    "slides/away/c.png", "slides/round.png", "slides/pipe.png", "slides/notes.txt", "slides/2024", "slides/a.svs/",
    "slides/a.svs\x00.png", "slides/a.svs\n", "slides-secret/c.png", "slides/．．/secret.png", "slides/‥/secret.png",
    "file:///etc/passwd", "C:\\Windows\\win.ini", "\\\\host\\share", "~/secret.png", "slides/~root/x.png",
    "slides/" + "a" * MAX_NAME, "slides/" + "../" * 50 + "etc/passwd", "http://localhost/x.png", None, 3,
    b"slides/a.svs", ["slides/a.svs"],
)  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES, ids=repr)
def test_nothing_leads_out_of_the_folder(disk, name):
    with pytest.raises(InputError, match="no such file in the opened folders") as caught:
        Folders([disk]).find(name)
    assert "\n" not in str(caught.value)
    assert str(disk.parent) not in str(caught.value), "where the folder lies stays here"


@given(st.text(max_size=60))
def test_any_name_of_nothing_gives_one_line(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("r")
    with pytest.raises(InputError) as caught:
        Folders([root]).find(f"{root.name}/{name}")
    assert str(caught.value).isprintable()


def test_folders_that_cannot_be_told_apart_or_are_none_are_refused(tmp_path):
    for name in ("a/slides", "b/slides"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match="named slides is opened already"):
        Folders([tmp_path / "a" / "slides", tmp_path / "b" / "slides"])
    assert len(Folders([tmp_path / "a" / "slides"] * 2).opened) == 1
    with pytest.raises(InputError, match="not a folder"):
        Folders([tmp_path / "none"])


def test_a_listing_ends(tmp_path):
    for number in range(MOST_LISTED + 5):
        (tmp_path / f"{number}.png").touch()
    assert len(Folders([tmp_path]).files()) == MOST_LISTED


def test_a_name_is_repeated_short_and_without_control_characters():
    assert shown("a\x1b[31mb") == "a?[31mb"
    assert len(shown("x" * 999)) == 81
    assert shown(b"x") == "bytes"
