import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.errors import InputError
from slidekick.data.slide import Region, open_slide
from slidekick.data.tiles import read_tiles, tile_grid
from slidekick.data.tissue import TissueMask


@settings(deadline=None, max_examples=40)
@given(size=st.integers(40, 300), overlap=st.integers(0, 30), mpp=st.floats(0.3, 4.0))
def test_every_place_of_the_slide_is_in_a_tile(pyramid, size, overlap, mpp):
    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, size, mpp, overlap)
        width, height = slide.dimensions
    seen = np.zeros((height, width), np.int32)
    for index in range(len(grid)):
        region = grid.region(index)
        assert 0 <= region.x < width
        assert 0 <= region.y < height
        seen[region.y : region.y + region.height, region.x : region.x + region.width] += 1
    assert seen.min() >= 1
    assert grid.coords.dtype == np.int64


@settings(deadline=None, max_examples=20)
@given(size=st.integers(40, 200), mpp=st.floats(0.5, 3.0), threads=st.integers(1, 4))
def test_tiles_come_in_order_and_show_their_region(pyramid, size, mpp, threads):
    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, size, mpp)
        read = list(read_tiles(slide, grid, threads))
        assert [index for index, _ in read] == list(range(len(grid)))
        for index, pixels in read:
            assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
            np.testing.assert_array_equal(pixels, slide.read(grid.region(index), (size, size)))
        assert [index for index, _ in read_tiles(slide, grid, threads, start=len(grid) - 1)] == [len(grid) - 1]


def test_own_pixels_are_given_as_they_are_and_beyond_the_edge_is_white(pyramid, level0):
    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, 256, 0.5)
        tiles = dict(read_tiles(slide, grid))
    assert len(grid) == 3 * 2
    np.testing.assert_array_equal(tiles[1], level0[:256, 256:512])
    np.testing.assert_array_equal(tiles[5][:244, :208], level0[256:, 512:])
    assert (tiles[5][244:] == 255).all()
    assert (tiles[5][:, 208:] == 255).all()


def test_only_tiles_with_enough_tissue_are_kept(pyramid):
    mask = np.zeros((50, 72), bool)
    mask[:, :30] = True
    with open_slide(pyramid) as slide:
        tissue = TissueMask(mask, (10.0, 10.0))
        assert len(tile_grid(slide, 100, 0.5, tissue=tissue)) == 3 * 5
        assert len(tile_grid(slide, 200, 0.5, tissue=tissue, least_tissue=0.4)) == 2 * 3
        assert len(tile_grid(slide, 200, 0.5, tissue=tissue, least_tissue=0.6)) == 3


def test_what_makes_no_grid_is_told(pyramid, make_pyramid):
    with open_slide(make_pyramid("plain.tif")) as slide, pytest.raises(InputError, match="no scale"):
        tile_grid(slide, 256, 0.5)
    with open_slide(pyramid) as slide:
        for size, overlap in ((0, 0), (64, 64), (100_000, 0)):
            with pytest.raises(InputError, match="give a size above the overlap"):
                tile_grid(slide, size, 0.5, overlap)
        with pytest.raises(InputError, match="is no scale"):
            tile_grid(slide, 64, 0)


def test_what_is_read_is_the_reader_s_own_to_change(pyramid, level0):
    with open_slide(pyramid) as slide:
        grid = tile_grid(slide, 256, 0.5)
        for size in (256, 128):  # a tile of the file, and a part of one
            for _ in range(2):
                pixels = slide.read(grid.region(1), (size, size))
                pixels[:] = 0
        np.testing.assert_array_equal(slide.read(grid.region(1), (256, 256)), level0[:256, 256:512])


@pytest.mark.parametrize("times", [2, 3, 5])
def test_shrunk_a_whole_number_of_times_a_pixel_is_the_mean_of_those_it_covers(pyramid, level0, times):
    with open_slide(pyramid) as slide:
        slide.levels = slide.levels[:1]
        side = 40 * times
        shown = slide.read(Region(7, 11, side, side), (40, 40)).astype(float)
    expected = level0[11 : 11 + side, 7 : 7 + side].reshape(40, times, 40, times, 3).mean((1, 3))
    assert np.abs(shown - expected).max() <= 0.51
