"""Whole slides tile by tile: what is found is what would be found in one piece, whoever looks and however often it is
stopped."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dark_segmentor import dark_segmentor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from slidekick.data.errors import InputError, OutputError, SlidekickError
from slidekick.data.files import stream_atomic
from slidekick.data.slide import open_slide
from slidekick.grounding import segment_slide
from slidekick.grounding.geojson import read_geojson
from slidekick.grounding.instances import grow_instances, refine
from slidekick.grounding.looking import Look, kept_looks
from slidekick.grounding.outline import fill
from slidekick.grounding.tile_store import LEVELS

HELPERS = Path(__file__).parents[1] / "helpers"  # where a process that pytest did not start finds them


def tissue(width: int, height: int, seed: int, coarse: float = 5) -> np.ndarray:
    """Pink with dark blobs, white around."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), coarse)
    grey = np.clip(150 - 60 * field / field.std(), 0, 225)[..., None] + (30, 0, 20)
    picture = np.full((height, width, 3), 255, np.uint8)
    inside = np.s_[height // 10 : height - height // 12, width // 12 : width - width // 15]
    picture[inside] = grey[inside]
    return picture


def pyramid(path: Path, picture: np.ndarray, mpp: float | None = 0.5) -> Path:
    """A tiled TIFF of two levels, deflated."""
    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    more = {"tile": (256, 256), "photometric": "rgb", "compression": "adobe_deflate", "metadata": None, **scale}
    with tifffile.TiffWriter(path) as file:
        file.write(picture, **more)
        file.write(np.ascontiguousarray(picture[::4, ::4]), subfiletype=1, **more)
    return path


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory) -> Path:
    return pyramid(tmp_path_factory.mktemp("slide") / "case.tif", tissue(1300, 1100, 1, 9))


def segment(file: Path, out: Path, concepts=("nucleus", "tumour"), mpp=None, **more):
    with open_slide(file, mpp) as slide:
        return segment_slide(slide, dark_segmentor(), concepts, out, **more)


def in_one_piece(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """drawn and interior of the whole picture at once, as they are kept."""
    padded = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
    segmentor = dark_segmentor()
    [(_, maps)] = segmentor.see(padded, [segmentor.vocabulary.concepts["nucleus"]])
    kept = (np.minimum(np.floor(maps * LEVELS), LEVELS - 1) + np.float32(0.5)) / np.float32(LEVELS)
    return tuple(kept.astype(np.float32))


def same_but_for_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]).astype(np.int64), axis=1).T.tolist()
    there, back = dict(pairs), dict(pair[::-1] for pair in pairs)
    return len(there) == len(back) == len(pairs) and there.get(0, 0) == back.get(0, 0) == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(deadline=None, max_examples=6)
@given(st.integers(300, 1200), st.integers(300, 1200), st.integers(0, 10**6), st.sampled_from([4, 9, 16]))
def test_what_is_found_is_what_would_be_found_in_one_piece(tmp_path_factory, width, height, seed, coarse):
    folder = tmp_path_factory.mktemp("one")
    picture = tissue(width, height, seed, coarse)
    Image.fromarray(picture).save(folder / "case.png")
    findings = segment(folder / "case.png", folder / "out", mpp=0.5).findings
    drawn, interior = in_one_piece(picture)
    wanted = refine(grow_instances(drawn >= 0.5, interior), drawn)[:height, :width]
    labels = tifffile.imread(folder / "out" / "case.nucleus.labels.ome.tif", series=0, level=0)
    assert same_but_for_numbers(labels, wanted)
    assert findings[0].whole.count == labels.max() == len(np.unique(labels)) - 1
    assert findings[0].whole.area_um2 == pytest.approx((labels > 0).sum() * 0.25)
    pieces, _ = ndimage.label(drawn >= 0.5)
    large = np.bincount(pieces.ravel()) >= 10
    large[0] = False
    labels = tifffile.imread(folder / "out" / "case.tumour.labels.ome.tif", series=0, level=0)
    assert same_but_for_numbers(labels, np.where(large[pieces], pieces, 0))
    assert findings[1].whole.count == large.sum()
    assert findings[1].whole.area_um2 == pytest.approx((labels > 0).sum())


def test_the_features_are_the_label_pictures_and_what_is_measured_of_them(slide_file, tmp_path):
    result = segment(slide_file, tmp_path)
    labels = tifffile.imread(tmp_path / "case.nucleus.labels.ome.tif", series=0, level=0)
    lines = [json.loads(line) for line in (tmp_path / "case.ndjson").read_text().splitlines()]
    assert json.loads((tmp_path / "case.geojson").read_text()) == {"type": "FeatureCollection", "features": lines}
    shapes = list(read_geojson(tmp_path / "case.geojson"))
    assert {shape.name: shape.kind for shape in shapes} == {"nucleus": "detection", "tumour": "annotation"}
    assert len({line["id"] for line in lines}) == len(lines)
    nuclei = [shape for shape in shapes if shape.name == "nucleus"]
    assert len(nuclei) == labels.max()
    for number in range(1, len(nuclei) + 1, 7):
        rings = [ring for polygon in nuclei[number - 1].polygons for ring in polygon]
        np.testing.assert_array_equal(fill(rings, labels.shape), labels == number)
        assert nuclei[number - 1].measurements["Area px"] == (labels == number).sum()
        assert nuclei[number - 1].measurements["Area µm^2"] == pytest.approx((labels == number).sum() / 4)
    cells = tifffile.imread(tmp_path / "case.tumour.labels.ome.tif", series=0, level=0)
    regions = [shape for shape in shapes if shape.name == "tumour"]
    for number in range(1, len(regions) + 1, 5):
        rings = [ring / 2 for polygon in regions[number - 1].polygons for ring in polygon]
        np.testing.assert_array_equal(fill(rings, cells.shape), cells == number)
    assert result.files["geojson"] == tmp_path / "case.geojson"
    assert {path.name for path in result.files.values()} == {path.name for path in tmp_path.iterdir()}


def test_statistics_add_up_over_the_pieces_of_tissue(tmp_path):
    picture = np.full((700, 2900, 3), 255, np.uint8)
    picture[:, :900], picture[:, 1900:] = tissue(900, 700, 1, 9), tissue(1000, 700, 2, 9)
    [nucleus, tumour] = segment(pyramid(tmp_path / "case.tif", picture), tmp_path / "out").findings
    for finding in (nucleus, tumour):
        assert len(finding.pieces) == 2
        for name in ("count", "area_um2", "tissue_um2"):
            assert getattr(finding.whole, name) == pytest.approx(sum(getattr(one, name) for one in finding.pieces))
        assert finding.pieces[0].box[0] < 900 < 1900 - 64 < finding.pieces[1].box[0]
        assert min(one.count for one in finding.pieces) > 10
    one = nucleus.whole
    assert one.density_per_mm2 == pytest.approx(one.count / one.tissue_um2 * 1e6)
    assert one.share == pytest.approx(one.area_um2 / one.tissue_um2)
    assert 3 < one.mean_diameter_um < 30
    assert tumour.whole.density_per_mm2 is tumour.whole.mean_diameter_um is None
    rows = list(csv.DictReader((tmp_path / "out" / "case.statistics.csv").open()))
    assert [(row["concept"], row["piece"]) for row in rows] == [
        (name, piece) for name in ("nucleus", "tumour") for piece in ("slide", "piece 1", "piece 2")
    ]
    assert int(rows[0]["count"]) == nucleus.whole.count
    said = json.loads((tmp_path / "out" / "case.statistics.json").read_text())
    assert said["findings"][0]["whole"]["count"] == nucleus.whole.count


def test_what_is_absent_unknown_or_without_tissue_is_told_and_not_invented(slide_file, tmp_path):
    gland, unicorn, nucleus, again = segment(slide_file, tmp_path, ["gland", "unicorn", "nucleus", "nuclei"]).findings
    assert (gland.found, gland.whole.count, gland.presence) == (False, 0, 0.0)
    assert (unicorn.known, unicorn.found, unicorn.prompt) == (False, False, "unicorn")
    assert unicorn.nearest
    assert nucleus.found
    assert (again.prompt, again.concept, again.whole) == ("nuclei", "nucleus", nucleus.whole)
    assert not (tmp_path / "case.gland.labels.ome.tif").exists()
    names = {json.loads(line)["properties"]["classification"]["name"] for line in (tmp_path / "case.ndjson").open()}
    assert names == {"nucleus"}
    glass = pyramid(tmp_path / "glass.tif", np.full((900, 900, 3), 250, np.uint8))
    result = segment(glass, tmp_path / "glass", ["nucleus"])
    assert (result.tiles, result.findings[0].found, result.findings[0].whole.count) == (0, False, 0)
    assert json.loads((tmp_path / "glass" / "glass.geojson").read_text())["features"] == []


def test_one_worker_or_two_give_the_same_bytes(slide_file, tmp_path):
    words = ["nucleus", "tumour", "stroma"]  # the last at another scale
    done = []
    segment(slide_file, tmp_path / "one", words, progress=lambda *step: done.append(step))
    segment(slide_file, tmp_path / "two", words, workers=2, load=dark_segmentor)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not list(tmp_path.glob("*/*.tiles")), "what is done is cleared away"
    tiles = [(now, total) for what, now, total in done if what == "tiles"]
    assert tiles == [(number, tiles[0][1]) for number in range(tiles[0][1] + 1)]


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {helpers!r})
from dark_segmentor import dark_segmentor
from slidekick.data.slide import open_slide
from slidekick.grounding import looking, segment_slide
if __name__ == "__main__":
    with open_slide(sys.argv[1]) as slide:
        segment_slide(slide, dark_segmentor(), ["nucleus", "tumour"], Path(sys.argv[2]), workers=int(sys.argv[3]),
                      load=dark_segmentor)
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "run.py"
    path.write_text(RUN.format(helpers=str(HELPERS)))
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_bytes(slide_file, tmp_path, script, workers):
    segment(slide_file, tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, str(script), str(slide_file), str(out), str(workers)]
    running = subprocess.Popen(command, env=os.environ | {"SECONDS_A_TILE": "0.7", "OMP_NUM_THREADS": "1"})
    started = time.monotonic()
    while not (seen := [log for log in out.glob("*.tiles/*/*.log") if log.stat().st_size > 20_000]):
        assert running.poll() is None, "ended before it could be killed"
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    with seen[0].open("ab") as torn:
        torn.write(b"tile\x05\x00")
    assert not list(out.glob("*.geojson")), "nothing half done"
    told, done = [], []
    segment(slide_file, out, tell=told.append, progress=lambda *step: done.append(step))
    assert "going on where a run was stopped" in " ".join(told)
    assert done[0][1] > 0, "what was seen is not looked at again"
    assert contents(out) == contents(tmp_path / "whole")


def test_other_questions_do_not_take_each_others_tiles(slide_file, tmp_path):
    class Interrupted(Exception):
        pass

    def stop(what, done, total):
        if done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        segment(slide_file, tmp_path, ["nucleus"], progress=stop)
    told, done = [], []
    segment(slide_file, tmp_path, ["tumour"], tell=told.append, progress=lambda *step: done.append(step))
    assert done[0][1] == 0
    assert "of 1 other question(s)" in told[0]
    told.clear()
    segment(slide_file, tmp_path, ["nucleus"], tell=told.append)
    assert "3 of " in told[0]
    assert not list(tmp_path.glob("*.tiles"))


def damage(file: Path) -> Path:
    """Spoil a tile in the middle of the finest level."""
    with tifffile.TiffFile(file) as tiff:
        offset, length = tiff.pages[0].dataoffsets[13], tiff.pages[0].databytecounts[13]
    spoilt = bytearray(file.read_bytes())
    spoilt[offset : offset + length] = bytes(length)
    file.write_bytes(spoilt)
    return file


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_tile_is_told_in_one_line_and_what_was_seen_is_kept(tmp_path, workers):
    file = damage(pyramid(tmp_path / "case.tif", tissue(1300, 1100, 1, 9)))
    with pytest.raises(InputError, match=r"case\.tif") as caught:
        segment(file, tmp_path / "out", workers=workers, load=dark_segmentor)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").glob("case.tiles/*/*.log"))
    assert not list((tmp_path / "out").glob("case.*json"))


def test_a_worker_that_dies_is_told_in_one_line(slide_file, tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import os\n\ndef lost():\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path)
    from dies import lost

    with pytest.raises(SlidekickError, match="a worker ended with 9") as caught:
        segment(slide_file, tmp_path / "out", workers=2, load=lost)
    assert "\n" not in str(caught.value)


def test_two_runs_at_once_in_one_folder_are_refused(slide_file, tmp_path):
    with (
        open_slide(slide_file) as slide,
        kept_looks(tmp_path / "case.tiles", [], slide, dark_segmentor(), print),
        pytest.raises(OutputError, match="another run is at work"),
    ):
        segment(slide_file, tmp_path)


def test_a_lock_that_cannot_be_had_is_told_as_what_it_is(slide_file, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(OutputError, match=r"case\.tiles: cannot write \(no locks available\); choose another"):
        segment(slide_file, tmp_path)


def test_a_slide_that_cannot_be_read_again_is_told(slide_file, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("slidekick.grounding.looking.content_key", refuse)
    with pytest.raises(InputError, match=r"case\.tif: cannot be read \(permission denied\)"):
        segment(slide_file, tmp_path)


def test_what_a_worker_raises_comes_back_as_it_was(slide_file, tmp_path, monkeypatch):
    text = "from slidekick.data.errors import OutputError\n\ndef full():\n    raise OutputError('the disk is full')\n"
    (tmp_path / "fails.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from fails import full

    with pytest.raises(OutputError, match="the disk is full"):
        segment(slide_file, tmp_path / "out", workers=2, load=full)


def test_an_end_that_cannot_be_written_leaves_nothing_half_done(slide_file, tmp_path, monkeypatch):
    monkeypatch.setattr("slidekick.grounding.slide_output.CLOSING", "no bytes")
    with pytest.raises(TypeError):
        segment(slide_file, tmp_path, ["tumour"])
    assert not [*tmp_path.glob("*.*json"), *tmp_path.glob(".*.part")]


def test_a_second_file_that_cannot_be_begun_takes_the_first_with_it(slide_file, tmp_path, monkeypatch):
    def one_only(path):
        if path.suffix == ".ndjson":
            raise OutputError(f"{path}: cannot write")
        return stream_atomic(path)

    monkeypatch.setattr("slidekick.grounding.slide_output.stream_atomic", one_only)
    with pytest.raises(OutputError, match="ndjson"):
        segment(slide_file, tmp_path, ["tumour"])
    assert not [*tmp_path.glob("*.*json"), *tmp_path.glob(".*.part")]


def test_what_was_seen_is_read_once_for_all_concepts_of_a_scale(slide_file, tmp_path, monkeypatch):
    opened, store = [], Look.store
    monkeypatch.setattr(Look, "store", lambda look: opened.append(look.folder) or store(look))
    segment(slide_file, tmp_path, ["nucleus", "tumour"])
    assert len(opened) == 2, "to know what is there, and to draw"


@pytest.mark.parametrize(
    ("concepts", "more", "told"),
    [
        ("nucleus", {}, "give a list of words"),
        ([], {}, "give a list of words"),
        (["nucleus", " "], {}, "give a list of words"),
        (["nucleus"], {"workers": 0}, "give 1 or more"),
        (["nucleus"], {"workers": 2}, "give load, or one worker"),
    ],
)
def test_questions_that_cannot_be_meant_are_refused(slide_file, tmp_path, concepts, more, told):
    with pytest.raises(InputError, match=told):
        segment(slide_file, tmp_path, concepts, **more)


def test_a_slide_without_scale_names_the_mend(tmp_path):
    Image.fromarray(tissue(400, 300, 0)).save(tmp_path / "case.png")
    with pytest.raises(InputError, match="--mpp"):
        segment(tmp_path / "case.png", tmp_path / "out")


def test_memory_does_not_grow_with_the_slide(tmp_path, script):
    taken = []
    part = tissue(1200, 1200, 1, 16)
    for times in (1, 4):
        file = pyramid(tmp_path / f"{times}.tif", np.tile(part, (times, times, 1)))
        done = subprocess.run(
            [sys.executable, str(script), str(file), str(tmp_path / "out"), "1"], capture_output=True, text=True
        )
        assert not done.returncode, done.stderr
        taken.append(int(done.stdout))
    assert taken[1] < taken[0] + 100, "MB; sixteen times the slide, of which the pixels alone are 66"
