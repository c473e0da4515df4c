import os
import subprocess
import sys
from pathlib import Path

import pytest

from slidekick.data.errors import OutputError
from slidekick.data.files import cache_dir, check_writable, folder_atomic, named_atomic, stream_atomic, write_atomic


def test_text_and_bytes_are_written_and_missing_folders_made(tmp_path):
    assert write_atomic(tmp_path / "a" / "b.txt", "µm").read_bytes() == "µm".encode()
    assert write_atomic(tmp_path / "a" / "b.txt", b"\x00\x01").read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = write_atomic(tmp_path / "answer.json", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"answer\.json: cannot write \(no space left on device\)"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["answer.json"]


def test_a_cache_that_cannot_be_written_is_told_by_its_own_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("a file")
    for place, mend in (("cache/graphs/one", "set SLIDEKICK_CACHE to another folder"), ("cache", "SLIDEKICK_CACHE")):
        with pytest.raises(OutputError, match=mend), folder_atomic(tmp_path / place / "x", lambda _: True):
            pass
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OutputError, match="choose another folder"):
        write_atomic(tmp_path / "file" / "x", "")


def test_outputs_are_as_readable_as_the_user_wants_files_to_be(tmp_path):
    script = "from slidekick.data.files import write_atomic; write_atomic('a', '')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, preexec_fn=lambda: os.umask(0o027))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_writing_leaves_the_umask_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("set for every thread"))
    write_atomic(tmp_path / "a", "")


def test_a_named_file_makes_its_folders(tmp_path):
    with named_atomic(tmp_path / "not" / "yet" / "a") as part:
        part.write_text("whole")
    assert (tmp_path / "not" / "yet" / "a").read_text() == "whole"


def test_a_folder_that_cannot_be_judged_is_told(tmp_path):
    def ours(folder):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "labels").mkdir()
    with pytest.raises(OutputError, match="permission denied"), folder_atomic(tmp_path / "labels", ours):
        pass


def test_a_place_under_a_file_is_refused_by_check_and_by_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match="cannot write"):
        write_atomic(tmp_path / "file" / "out", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused_before_the_work(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="permission denied"):
        check_writable(tmp_path / "out")


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "not" / "yet")
    check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_cache_lies_where_the_user_says_and_else_where_the_platform_does(monkeypatch):
    monkeypatch.setenv("SLIDEKICK_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_dir() == Path("/one")
    monkeypatch.delenv("SLIDEKICK_CACHE")
    assert cache_dir() == Path("/two/slidekick")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir().name == "slidekick"
    assert Path.home() in cache_dir().parents


def test_a_stream_that_breaks_leaves_the_old_file_and_one_that_ends_the_new(tmp_path):
    target = write_atomic(tmp_path / "long.json", "old")

    def write(broken: bool) -> None:
        with stream_atomic(target) as stream:
            stream.write(b"half")
            assert target.read_text() == "old"
            if broken:
                raise RuntimeError("broken off")
            stream.write(b" and half")

    with pytest.raises(RuntimeError, match="broken off"):
        write(broken=True)
    assert (os.listdir(tmp_path), target.read_text()) == (["long.json"], "old")
    write(broken=False)
    assert (os.listdir(tmp_path), target.read_text()) == (["long.json"], "half and half")


def fill_folder(path: Path, text: str, broken: bool = False) -> None:
    with folder_atomic(path, ours=lambda folder: (folder / "mark").is_file()) as folder:
        (folder / "mark").write_text(text)
        if broken:
            raise RuntimeError("broken off")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError):
        fill_folder(tmp_path / "in" / "labels", "half", broken=True)
    assert os.listdir(tmp_path / "in") == []
    fill_folder(tmp_path / "in" / "labels", "old")
    with pytest.raises(RuntimeError):
        fill_folder(tmp_path / "in" / "labels", "half", broken=True)
    assert (tmp_path / "in" / "labels" / "mark").read_text() == "old"
    fill_folder(tmp_path / "in" / "labels", "new")
    assert (tmp_path / "in" / "labels" / "mark").read_text() == "new"
    assert os.listdir(tmp_path / "in") == ["labels"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path):
    theirs = tmp_path / "labels"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="was not written here; move it"):
        fill_folder(theirs, "new")
    assert os.listdir(theirs) == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="was not written here"):
        fill_folder(tmp_path / "file", "new")
    with pytest.raises(OutputError, match="cannot write"):
        fill_folder(tmp_path / "file" / "labels", "new")
