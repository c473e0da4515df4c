"""The benchmark of whole slides on tiny ones: what is painted, counted and told. Peers are stood in for."""

import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from slidekick.apps.bench import slide_files, slide_peers, slide_work, slides
from slidekick.apps.bench.slide_files import BLOCK, GLASS, tissue_plan, write_slide
from slidekick.apps.bench.slides import Bench
from slidekick.data.errors import SourceError
from slidekick.data.readers import openslide
from slidekick.data.slide import open_slide
from slidekick.data.tissue import tissue_mask


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.clip(rng.normal((170, 90, 150), 25, (BLOCK, BLOCK, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def painted(tmp_path_factory, picture):
    """4500 px a side with six blocks of tissue."""
    return write_slide(tmp_path_factory.mktemp("slide") / "a.svs", 4500, tissue_plan(4500, 6), picture)


def test_a_plan_has_so_many_blocks_of_tissue_about_the_middle():
    for side, blocks in ((1000, 1), (20_000, 100), (4500, 0)):
        plan = tissue_plan(side, blocks)
        assert plan.shape == (-(-side // BLOCK),) * 2
        assert (plan != GLASS).sum() == blocks
    assert (tissue_plan(20_000, 100)[[0, -1]] == GLASS).all()


def test_a_painted_slide_is_an_svs_whose_levels_show_the_same(painted):
    with open_slide(painted) as slide:
        assert (slide.vendor, slide.mpp, slide.dimensions) == ("aperio", (0.5, 0.5), (4500, 4500))
        assert [level.width for level in slide.levels] == [4500, 1125]
        fine, coarse = slide._reader.read(0, 0, 0, 4500, 4500), slide._reader.read(1, 0, 0, 1125, 1125)
        assert tissue_mask(slide).share == pytest.approx(6 * BLOCK**2 / 4500**2, rel=0.1)
    blocks = fine[:4500, :4500].reshape(1125, 4, 1125, 4, 3).mean((1, 3))
    assert np.abs(blocks - coarse).mean() < 6, "JPEG twice, and noise, but in the same place"
    theirs = openslide.open_file(painted)
    assert theirs.header.vendor == "aperio"
    np.testing.assert_array_equal(theirs.read(0, 900, 1000, 300, 300), fine[1000:1300, 900:1200])
    theirs.close()


def test_every_tile_of_ours_is_read_and_its_mean_told(painted, tmp_path, capsys):
    for scale in (1, 2):
        job = slides.tile_job(painted, scale)
        assert len(job["places"]) == 6 * (BLOCK // (256 * scale)) ** 2
        file = tmp_path / "job.json"
        file.write_text(json.dumps(job))
        assert slide_work.main(["tiles", str(file)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["number"] == len(job["places"])
        assert told["mean"] == pytest.approx(410 / 3, abs=3)
        assert set(told["tiles_s"]) == set(told["raw_s"]) == {"1 threads", "2 threads"}


def test_the_loop_of_peers_counts_and_compares_the_same_tiles(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(slide_peers, "environment", lambda peer: sys.executable)
    code = """
def opened(job):
    import numpy as np
    return lambda index: np.full((job["size"], job["size"], 3), job["places"][index][0], np.uint8)
"""
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"places": [[10, 0], [30, 0]] * 20, "size": 8, "workers": 2, "compared": 40}))
    told = slide_peers.peer_tiles(slide_peers.Peer("flat", "1", (), code), job)
    assert (told["number"], told["mean"]) == (40, 20.0)
    assert set(told["tiles_s"]) == {"2 threads", "2 processes"}
    with pytest.raises(SourceError, match=r"^broken 2: .*no such reader"):
        slide_peers.peer_tiles(slide_peers.Peer("broken", "2", (), 'raise OSError("no such reader")\n'), job)


def test_a_peer_that_cannot_be_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path))
    failed = SimpleNamespace(returncode=1, stderr="WARNING: slow\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        SourceError, match=r"^histolab 0\.7\.0: cannot be installed \(ERROR: No matching distribution\)$"
    ):
        slide_peers.environment(slide_peers.HISTOLAB)


def reads(pace: float, mean: float = 130.0, number: int = 8) -> dict:
    return {"mean": mean, "number": number, "tiles_s": {"1": pace / 2, "2": pace}, "raw_s": {"2": 1000.0}}


def test_ratios_take_the_best_of_each_and_only_those_that_show_the_same():
    runs = {
        "ours": [reads(800.0), reads(900.0)],
        "fastslide": [reads(1200.0)],
        "slow": [reads(100.0), reads(90.0)],
        "slower": [reads(50.0)],
        "elsewhere": [reads(5000.0, mean=200.0)],
        "lazy": [reads(5000.0, number=4)],
    }
    missing: list[str] = []
    rows = {row.peer: row for row in slides.tile_rows(runs, "tiles", "fastslide", missing)}
    assert {name: (row.ratio, row.met) for name, row in rows.items()} == {
        "decoding alone": (0.9, True),
        "fastslide": (0.75, False),
        "slow": (9.0, True),
        "slower": (18.0, None),
    }
    assert len(missing) == 2
    assert "elsewhere shows something else" in missing[0]


def test_a_missing_peer_is_told_and_the_others_are_measured(tmp_path, monkeypatch, painted):
    def peer_tiles(peer, job):
        if peer.name == "lazyslide":
            raise SourceError("lazyslide 0.13.0: cannot be installed (no network)")
        return reads(100.0)

    monkeypatch.setattr(slide_peers, "peer_tiles", peer_tiles)
    monkeypatch.setattr(Bench, "ours", lambda *_, **__: reads(800.0))
    monkeypatch.setattr(Bench, "slide", lambda *_: painted)
    bench = Bench(tmp_path, [], {}, [])
    slides.tiles(bench)
    assert [line for line in bench.missing if "lazyslide 0.13.0: cannot be installed" in line] == bench.missing
    assert len(bench.missing) == 2, "once a scale"
    told = {row.peer.split()[0] for row in bench.rows}
    assert told == {"decoding", "fastslide", "tiatoolbox", "histolab"}


def test_what_of_ours_cannot_be_measured_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=2, stdout="", stderr="loading\nslidekick: weights: missing\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(Bench, "slide", lambda *_: tmp_path / "a.svs")
    assert slides.main(["--only", "tissue", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "slidekick: tissue: slidekick: weights: missing\n"


def test_two_workers_are_held_against_one_in_turns(tmp_path, monkeypatch):
    asked = []

    def ours(self, task, environment=None, **facts):
        asked.append(facts["workers"])
        total = 40.0 / facts["workers"] + 10
        return {"tiles": 30, "tiles_s": 40.0 / facts["workers"], "total_s": total, "peak_mb": 1.0}

    monkeypatch.setattr(Bench, "ours", ours)
    monkeypatch.setattr(Bench, "slide", lambda *_: tmp_path / "a.svs")
    bench = Bench(tmp_path, [], {}, [])
    slides.workers(bench)
    assert asked == [1, 2, 1, 2]
    assert [(row.ratio, row.met) for row in bench.rows] == [(2.0, True), (pytest.approx(5 / 3), None)]


def test_a_first_question_finds_weights_but_no_features_and_no_graphs(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    for name in ("base", "packages", "tiles", "graphs"):
        (cache / name).mkdir(parents=True)
    monkeypatch.setenv("SLIDEKICK_CACHE", str(cache))
    seen = []

    def ours(self, task, environment=None, **facts):
        from pathlib import Path

        seen.extend(sorted(path.name for path in Path(environment["SLIDEKICK_CACHE"]).iterdir()))
        return {"cold_s": 30.0, "warm_s": 6.0, "peak_mb": 1500.0, "tiles": 2000}

    monkeypatch.setattr(Bench, "ours", ours)
    monkeypatch.setattr(Bench, "slide", lambda *_: tmp_path / "a.svs")
    bench = Bench(tmp_path, [], {}, [])
    slides.question(bench)
    assert seen == ["base", "packages"]
    assert [row.met for row in bench.rows] == [True, True, False]


def test_a_line_is_found_and_what_is_none_is_not(tmp_path):
    slope, intercept, straight = slides.line([1, 2, 3, 4], [2.5, 4.5, 6.5, 8.5])
    assert (slope, intercept, straight) == pytest.approx((2.0, 0.5, 1.0))
    assert slides.line([1, 2, 3, 4], [1.0, 9.0, 1.0, 9.0])[2] < 0.5
    slides.plot(tmp_path / "tissue.png", [100, 200, 400], [1.5, 3.0, 6.1])
    assert (tmp_path / "tissue.png").read_bytes().startswith(b"\x89PNG")


def test_glass_is_encoded_once():
    painter = slide_files._Painter(tissue_plan(100_000, 0), np.zeros((BLOCK, BLOCK, 3), np.uint8))
    tiles = painter.tiles(1, 25_000)
    first = next(tiles)
    assert all(tile is first for tile in tiles)
