"""What people hand in by mistake: one line with the mend, exit 2, nothing half-written."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

COMMANDS = {
    "segment": lambda image: ["segment", image, "--concept", "nucleus"],
    "ask": lambda image: ["ask", image, "What is this?"],
    "report": lambda image: ["report", image],
}


def bomb() -> bytes:
    """A PNG of a few bytes that says it holds 40 000 x 40 000 pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return content


@pytest.fixture
def bad(tmp_path, picture):
    """name -> path of a file that cannot be used."""
    tmp_path.joinpath("folder").mkdir()
    tmp_path.joinpath("empty.png").touch()
    tmp_path.joinpath("text.png").write_text("no picture")
    tmp_path.joinpath("bomb.png").write_bytes(bomb())
    tmp_path.joinpath("cut.png").write_bytes(picture.read_bytes()[:-40])
    frames = [Image.fromarray(np.full((9, 9, 3), shade, np.uint8)) for shade in (0, 255)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    return lambda name: tmp_path / name


def assert_refused(done, told: str, out) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("slidekick")
    assert told in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.png", "no such file; check the path"),
        ("folder", "is a folder; give one picture"),
        ("empty.png", "is empty (0 bytes); copy it again"),
        ("text.png", "no picture or slide known here; give one of PNG"),
        ("bomb.png", "million pixels for an untiled picture; cut it"),
        ("cut.png", "damaged or cut short; copy or export it again"),
        ("moving.gif", "holds 2 frames or pages; save the one you mean"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_name(slidekick, bad, tmp_path, name, told):
    done = slidekick(*COMMANDS["segment"](bad(name)), "--out", tmp_path / "out")
    assert_refused(done, told, tmp_path / "out")
    assert name in done.stderr
    assert_refused(slidekick("slide", "info", bad(name)), told, tmp_path / "out")


@pytest.mark.parametrize("command", ["ask", "report"])
@pytest.mark.parametrize("name", ["missing.png", "text.png"])
def test_every_command_refuses_it_before_a_model_is_loaded(slidekick, bad, tmp_path, command, name):
    done = slidekick(*COMMANDS[command](bad(name)), "--out", tmp_path / "out")
    assert_refused(done, name, tmp_path / "out")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_region_outside_the_picture_is_told_with_the_size(slidekick, picture, tmp_path, command):
    done = slidekick(*COMMANDS[command](picture), "--region", "90,0,20,20", "--out", tmp_path / "out")
    assert_refused(done, "region 90,0,20,20 is not inside the 96 x 64 pixels; give", tmp_path / "out")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_folder_that_cannot_be_written_is_told_before_the_work(slidekick, picture, tmp_path, command):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"  # under a file: cannot be written even by root
    assert_refused(slidekick(*COMMANDS[command](picture), "--out", out), "is a file, not a folder", out)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--region", "1,2,3"], "'1,2,3' is not X,Y,W,H in whole pixels, such as 0,0,1024,1024"),
        (["--region", "a,b,c,d"], "is not X,Y,W,H"),
        (["--mpp", "0"], "'0' is no scale; give µm per pixel above 0"),
        (["--mpp", "inf"], "'inf' is no scale"),
        (["--colour", "red"], "unrecognized arguments: --colour red; see slidekick"),
    ],
)
def test_options_that_cannot_be_meant_are_told_in_one_line(slidekick, picture, tmp_path, options, told):
    done = slidekick(*COMMANDS["segment"](picture), *options)
    assert_refused(done, told, tmp_path / "out")


@pytest.mark.parametrize(
    ("concept", "told"),
    [
        ("", "concept '' is empty; name a structure"),
        (" ?!", "is empty; name a structure"),
        ("x" * 100_000, "has 100000 characters; give a word or a few"),
    ],
)
def test_a_concept_that_names_nothing_is_told(slidekick, picture, tmp_path, concept, told):
    assert_refused(slidekick("segment", picture, "--concept", concept), told, tmp_path / "out")


@pytest.mark.parametrize(
    ("question", "told"),
    [("", "the question is empty"), (" \n", "the question is empty"), ("why " * 25_000, "shorten it")],
)
def test_a_question_that_asks_nothing_or_a_book_is_told(slidekick, picture, tmp_path, question, told):
    assert_refused(slidekick("ask", picture, question), told, tmp_path / "out")


def test_a_command_or_picture_left_out_is_told(slidekick, tmp_path):
    assert_refused(slidekick("segment", "--concept", "nucleus"), "required: IMAGE", tmp_path / "out")
    assert_refused(slidekick("diagnose"), "invalid choice: 'diagnose'", tmp_path / "out")
    assert_refused(slidekick("slide"), "required: ACTION", tmp_path / "out")


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "P", "RGBA", "LA", "L", "1"])
def test_unusual_pictures_are_simply_read(slidekick, tmp_path, mode):
    path = tmp_path / ("odd.tif" if mode == "CMYK" else "odd.png")
    grey = Image.fromarray(np.full((8, 12), 99, np.uint8))
    deep = Image.fromarray(np.full((8, 12), 25443, np.uint16))
    (deep if mode == "I;16" else grey.convert("RGB").convert(mode)).save(path)
    done = slidekick("slide", "info", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 x 8 pixels" in done.stdout
