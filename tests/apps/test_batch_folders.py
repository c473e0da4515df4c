"""Which files of a folder are the slides of a batch."""

import pytest

from slidekick.apps.batch import _files
from slidekick.data.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.svs", "deep/b.PNG", "dicom/1.dcm", "dicom/2.dcm", "mirax/c.vms", "mirax/c(0,1).jpg", "notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_each_slide_is_named_once(folder):
    found = [file.relative_to(folder).as_posix() for file in _files(folder)]
    assert found == ["a.svs", "deep/b.PNG", "dicom", "mirax/c.vms"]
    assert _files(folder / "a.svs") == [folder / "a.svs"]


def test_a_folder_without_slides_is_told(folder):
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="no slide in this folder"):
        _files(folder / "none")
