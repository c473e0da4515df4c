"""Label pictures larger than memory: what was drawn is what is in the file, at every level."""

import uuid

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.errors import OutputError
from slidekick.grounding import label_pyramid
from slidekick.grounding.label_pyramid import LabelCanvas


@settings(deadline=None, max_examples=20)
@given(st.tuples(st.integers(1, 2600), st.integers(1, 2600)), st.integers(0, 10**6))
def test_what_was_drawn_is_in_the_file_at_every_level(tmp_path_factory, shape, seed):
    rng = np.random.default_rng(seed)
    folder, wanted = tmp_path_factory.mktemp("labels"), np.zeros(shape, np.uint32)
    with LabelCanvas(shape, folder) as canvas:
        for number in range(1, 20):
            mask = rng.random(rng.integers(1, 700 if number < 4 else 40, 2)) < 0.8
            corner = tuple(int(rng.integers(0, side)) for side in shape)
            part = wanted[corner[0] : corner[0] + mask.shape[0], corner[1] : corner[1] + mask.shape[1]]
            part[mask[: part.shape[0], : part.shape[1]]] = 3 * number
            canvas.add(number, corner, mask)
        path = canvas.write(folder / "x.ome.tif", 0.5, lambda number: 3 * number)
    assert [one.name for one in folder.iterdir()] == ["x.ome.tif"]
    with tifffile.TiffFile(path) as file:
        levels = file.series[0].levels
        assert max(levels[-1].shape) <= label_pyramid.SMALLEST
        for number, level in enumerate(levels):
            assert level.dtype == np.uint32
            np.testing.assert_array_equal(level.asarray(), wanted[:: 2**number, :: 2**number])


def test_little_is_held_while_much_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(label_pyramid, "HELD_BYTES", 1000)
    with LabelCanvas((600, 600), tmp_path) as canvas:
        for number in range(1, 200):
            canvas.add(number, (3 * number, 2 * number), np.ones((3, 50), bool))
            assert canvas._bytes < 1100
        labels = tifffile.imread(canvas.write(tmp_path / "x.ome.tif", 0.5))
    for number in range(1, 200):
        assert (labels[3 * number : 3 * number + 3, 2 * number : 2 * number + 50] == number).all()


def test_the_file_states_its_scale_and_equal_pictures_are_equal_bytes(tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with LabelCanvas((1500, 1200), tmp_path / folder) as canvas:
            canvas.add(7, (10, 20), np.ones((30, 40), bool))
            files.append(canvas.write(tmp_path / folder / "x.ome.tif", 0.25))
    assert files[0].read_bytes() == files[1].read_bytes()
    with tifffile.TiffFile(files[0]) as file:
        assert 'PhysicalSizeX="0.25" PhysicalSizeXUnit="µm"' in file.ome_metadata
        assert uuid.UUID(file.ome_metadata.partition("urn:uuid:")[2][:36])
        assert len(file.pages) == 1, "levels are SubIFDs"


def test_a_place_that_is_none_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with LabelCanvas((10, 10), tmp_path) as canvas, pytest.raises(OutputError, match="cannot write"):
        canvas.write(tmp_path / "file" / "x.ome.tif", 0.25)
