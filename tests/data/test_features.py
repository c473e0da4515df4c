"""Tiles and features in h5: ours read by the rules of CLAM and TRIDENT, theirs as published read by us."""

import io

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.errors import InputError, OutputError
from slidekick.data.features import read_coords, read_features, write_coords, write_features
from slidekick.data.slide import open_slide
from slidekick.data.tiles import read_tiles, tile_grid

TRIDENT = {
    "patch_size": 64,
    "patch_size_level0": 128,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "case",
    "savetodir": "out",
    "level0_width": 720,
    "level0_height": 500,
}
PLACES = np.array([[0, 0], [128, 0], [0, 256]])


def write(path, attributes, **arrays):
    """An h5 as either tool writes it: one row a chunk, growable."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            chunk = (1, *array.shape[1:])
            file.create_dataset(name, data=array, maxshape=(None, *array.shape[1:]), chunks=chunk)
        file["coords"].attrs.update(attributes)
    return path


def refused(path, told, read=read_coords):
    with pytest.raises(InputError, match=told) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_what_is_written_is_read_again_and_equal_grids_give_equal_bytes(pyramid, tmp_path):
    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, 100, 0.5, overlap_px=10)
        features = np.random.default_rng(0).normal(size=(len(grid), 7)).astype(np.float16)
        first = write_features(tmp_path / "new" / "a.h5", slide, grid, features)
        assert first.read_bytes() == write_features(tmp_path / "b.h5", slide, grid, features).read_bytes()
        found = read_features(first)
        assert found.features.dtype == np.float16
        np.testing.assert_array_equal(found.features, features)
        np.testing.assert_array_equal(found.coords, grid.coords)
        again = found.grid(slide)
        assert (again.size_px, again.overlap_px, again.size_level0) == (100, 10, grid.size_level0)
        assert again.mpp == pytest.approx(0.5)
        for (_, ours), (_, theirs) in zip(read_tiles(slide, grid), read_tiles(slide, again), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@settings(deadline=None, max_examples=25)
@given(mpp=st.floats(0.3, 4), size=st.integers(16, 300), own=st.sampled_from([0.25, 0.2527, 0.499, 0.5]))
def test_trident_takes_the_size_at_level_0_that_is_meant_and_clam_reads_a_level_only_where_it_is_the_scale(
    pyramid, tmp_path_factory, mpp, size, own
):
    with open_slide(pyramid, mpp=own) as slide:
        grid = tile_grid(slide, size, mpp)
        path = write_coords(tmp_path_factory.mktemp("h5") / "a.h5", slide, grid)
        with h5py.File(path) as file:
            told = dict(file["coords"].attrs)
            assert file["coords"].dtype == np.int64
        assert set(TRIDENT) <= set(told)
        ratio = told["level0_magnification"] / told["target_magnification"]
        assert abs(told["patch_size"] * ratio - told["patch_size_level0"]) <= 0.5 + 1e-6
        assert (told["level0_width"], told["level0_height"], told["savetodir"]) == (720, 500, "")
        if "patch_level" in told:
            level = slide.levels[told["patch_level"]]
            assert level.downsample * size == pytest.approx(grid.size_level0[0], rel=0.0051)
        else:
            fits = [abs(grid.size_level0[0] / size / level.downsample - 1) < 0.0049 for level in slide.levels]
            assert not any(fits)


def test_tridents_features_are_read_with_a_leading_axis_and_without(tmp_path):
    features = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    for name, array in (("flat.h5", features), ("deep.h5", features[None])):
        found = read_features(write(tmp_path / name, TRIDENT, features=array, coords=PLACES))
        np.testing.assert_array_equal(found.features, features)
        assert (found.size_px, found.size_level0, found.overlap_px) == (64, (128, 128), 0)
        assert found.attributes == {key: value for key, value in TRIDENT.items() if isinstance(value, int)}


def test_clams_places_have_the_size_of_the_level_that_was_read(pyramid, tmp_path):
    clam = {"patch_size": 64, "patch_level": 1, "downsample": (2.0, 2.0), "level_dim": (360, 250), "name": "case"}
    found = read_coords(write(tmp_path / "a.h5", clam | {"save_path": "x"}, coords=PLACES.astype(np.int32)))
    assert found.size_level0 == (128, 128)
    assert found.coords.dtype == np.int64
    scaled = read_coords(write(tmp_path / "b.h5", clam | {"custom_downsample": 2}, coords=PLACES))
    assert scaled.size_level0 == (256, 256)
    bare = read_coords(write(tmp_path / "c.h5", {"patch_size": 64, "patch_level": 1}, coords=PLACES))
    assert bare.size_level0 is None  # the slide knows
    with open_slide(pyramid) as slide:
        assert bare.grid(slide).size_level0 == (128, 128)
        assert bare.grid(slide).mpp == pytest.approx(1.0)
    assert (
        read_coords(write(tmp_path / "d.h5", {"patch_size": 64, "patch_level": 0}, coords=PLACES)).size_level0[0] == 64
    )


def test_clams_features_say_nothing_of_the_size_and_are_read_all_the_same(pyramid, tmp_path):
    path = write(tmp_path / "a.h5", {}, features=np.zeros((3, 1024), np.float32), coords=PLACES.astype(np.int32))
    found = read_features(path)
    assert (found.size_px, found.size_level0, found.features.shape) == (None, None, (3, 1024))
    with open_slide(pyramid) as slide, pytest.raises(InputError, match="does not tell how large"):
        found.grid(slide)


def test_a_slide_without_tissue_has_no_rows(pyramid, tmp_path):
    from slidekick.data.tissue import TissueMask

    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, 64, 0.5, tissue=TissueMask(np.zeros((5, 7), bool), (103, 100)))
        found = read_features(write_features(tmp_path / "a.h5", slide, grid, np.zeros((0, 9), np.float32)))
        assert (found.coords.shape, found.features.shape, len(found)) == ((0, 2), (0, 9), 0)
        assert list(read_tiles(slide, found.grid(slide))) == []
    odd = write(
        tmp_path / "odd.h5", {"overlap": "None", "level0_magnification": "None"}, coords=np.zeros((0,))
    )  # of older versions
    assert read_coords(odd).coords.shape == (0, 2)


def test_tiles_of_another_slide_are_told(pyramid, tmp_path):
    found = read_coords(write(tmp_path / "a.h5", TRIDENT | {"level0_width": 9000}, coords=PLACES))
    with (
        open_slide(pyramid) as slide,
        pytest.raises(InputError, match="720 x 500 pixels and the tiles' file says 9000"),
    ):
        found.grid(slide)


def test_features_that_are_not_one_a_tile_are_not_written(pyramid, tmp_path):
    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, 100, 0.5)
        with pytest.raises(ValueError, match="features"):
            write_features(tmp_path / "a.h5", slide, grid, np.zeros((len(grid) - 1, 3), np.float32))
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            write_coords(tmp_path / "file" / "a.h5", slide, grid)
    assert not (tmp_path / "a.h5").exists()


def test_files_that_are_no_tiles_are_refused_in_one_line(tmp_path):
    refused(tmp_path / "none.h5", "no such file")
    (tmp_path / "text.h5").write_text("coords")
    refused(tmp_path / "text.h5", "no whole h5 file")
    refused(write(tmp_path / "a.h5", TRIDENT, coords=PLACES), "holds no features", read_features)
    refused(write(tmp_path / "b.h5", {}, coords=PLACES[:, :1]), r"coords of \(3, 1\)")
    refused(write(tmp_path / "c.h5", {}, coords=PLACES + 0.5), "no whole pixels")
    refused(write(tmp_path / "d.h5", {}, coords=np.full((2, 2), np.nan)), "no whole pixels")
    refused(write(tmp_path / "e.h5", {}, coords=PLACES, features=np.zeros((2, 4))), "one row a tile", read_features)
    refused(write(tmp_path / "f.h5", {"patch_size": -1}, coords=PLACES), "patch_size is '-1'")
    refused(write(tmp_path / "g.h5", {"patch_size_level0": 1e9}, coords=PLACES), "no number of pixels")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["coords"] = np.array([b"a", b"b"])
    refused(tmp_path / "h.h5", "no numbers in this file")


def test_a_huge_shape_that_is_only_declared_is_never_made(tmp_path):
    import resource

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("coords", shape=(10**9, 2), dtype=np.int64, chunks=(1024, 2))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["coords"] = PLACES
        file.create_dataset("features", shape=(3, 10**10), dtype=np.float32, chunks=(1, 1024), compression="gzip")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "a.h5", "which it does not hold")
    refused(tmp_path / "b.h5", "which it does not hold", read_features)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_nothing_outside_the_file_is_read(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(range(48)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["coords"] = PLACES
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("coords", (3, 2), np.int64, external=[(str(tmp_path / "secret"), 0, 48)])
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["coords"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "coords")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 2), np.int64)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "coords", (3, 2))
        file.create_virtual_dataset("coords", layout)
    for name in ("raw.h5", "link.h5", "virtual.h5"):
        refused(tmp_path / name, "no numbers in this file")


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_short_anywhere_is_refused(tmp_path_factory, cut):
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        file["coords"], file["features"] = PLACES, np.ones((3, 64), np.float32)
    content = held.getvalue()
    path = tmp_path_factory.mktemp("cut") / "a.h5"
    path.write_bytes(content[: cut % len(content)])
    refused(path, "h5", read_features)
