"""Kinds of stain: what is plain to see is told, what is none of them is not, and the fit is honest about sources."""

import json

import numpy as np
import pytest
import skimage.data
from PIL import Image

from slidekick.data import stain_fit
from slidekick.data.errors import InputError
from slidekick.data.slide import open_slide
from slidekick.data.stain import KINDS, UNKNOWN, kind_of, stain_class, stain_features

DARK, DAB, EOSIN, BLUE = (0, 0, 0), (120, 70, 30), (225, 130, 185), (90, 70, 150)


def cells(ground, colours, seed=0, side=256) -> np.ndarray:
    """Discs of the given colours on a ground, with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    picture = np.full((side, side, 3), ground, float)
    for number, (cy, cx) in enumerate(rng.integers(0, side, (90, 2))):
        picture[(y - cy) ** 2 + (x - cx) ** 2 < 80] = colours[number % len(colours)]
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


def test_fluorescence_is_told_from_stains_in_bright_light():
    glowing = stain_class(cells((8, 8, 8), [(90, 90, 90), (60, 60, 60)]))
    assert glowing.name == "fluorescence"
    assert stain_class(cells((240, 238, 242), [EOSIN, BLUE])).likeliest != "fluorescence"


def test_real_dab_is_no_haematoxylin_and_eosin():
    assert stain_class(skimage.data.immunohistochemistry()[:, :, :3]).likeliest == "immunohistochemistry"


@pytest.mark.parametrize(
    "picture",
    [
        np.full((64, 64, 3), 243, np.uint8),
        np.full((64, 64, 3), 250, np.uint8) - np.eye(64, dtype=np.uint8)[:, :, None],
        cells((240, 240, 240), [(10, 220, 40), (250, 240, 10)]),
        np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8),
    ],
    ids=["glass", "dust", "paint", "noise"],
)
def test_what_is_no_stain_is_unknown(picture):
    assert stain_class(picture).name == UNKNOWN


def test_scale_and_turning_change_little():
    picture = skimage.data.immunohistochemistry()[:, :, :3]
    whole = stain_class(picture)
    assert stain_class(np.rot90(picture)).probability == pytest.approx(whole.probability, abs=0.05)
    small = np.asarray(Image.fromarray(picture).resize((256, 256), Image.Resampling.BOX))
    assert stain_class(small).likeliest == whole.likeliest


def test_a_slide_is_judged_by_its_tissue_and_equal_slides_alike(tmp_path):
    import tifffile

    pixels = np.full((1536, 1536, 3), 240, np.uint8)
    pixels[512:1024, 512:1024] = skimage.data.immunohistochemistry()[:, :, :3]
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), photometric="rgb", compression="zlib")
    with open_slide(tmp_path / "a.tif") as slide:
        assert stain_class(slide).likeliest == "immunohistochemistry"
        assert stain_class(slide) == stain_class(slide)
    tifffile.imwrite(tmp_path / "b.tif", np.full((1536, 1536, 3), 240, np.uint8), tile=(256, 256), photometric="rgb")
    with open_slide(tmp_path / "b.tif") as slide:
        assert stain_class(slide).to_dict() == {"name": UNKNOWN, "probability": 0.0, "likeliest": None}


@pytest.mark.parametrize(
    ("stain", "kind"),
    [
        ("H&E", "haematoxylin and eosin"),
        ("May-Gruenwald-Giemsa / Pappenheim", "Romanowsky (blood, bone marrow)"),
        ("blood smear stain (not stated)", "Romanowsky (blood, bone marrow)"),
        ("Pap", "Papanicolaou"),
        ("fluorescence (DNA stain)", "fluorescence"),
        ("Masson trichrome", None),
        ("hematoxylin (separated)", None),
        ("label picture", None),
        (None, None),
    ],
)
def test_words_of_sets_name_kinds(stain, kind):
    assert kind_of(stain) == kind


def write_set(folder, name, stain, ground, colours):
    folder = folder / name
    folder.mkdir(parents=True)
    lines = []
    for number in range(9):
        Image.fromarray(cells(ground, colours, seed=number, side=96)).save(folder / f"{number}.png")
        split = ("train", "val", "test")[number % 3]
        group = {"id": f"{name}{number}", "group": f"{name}{number}", "image": f"{number}.png"}
        lines.append(json.dumps(group | {"split": split, "stain": stain}))
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")


def test_the_fit_learns_what_it_is_shown_and_tells_how_well(tmp_path, capsys):
    for name, ground in (("one", (240, 238, 242)), ("two", (228, 230, 235))):
        write_set(tmp_path / "data", f"he_{name}", "H&E", ground, [EOSIN, BLUE])
        write_set(tmp_path / "data", f"ihc_{name}", "IHC", ground, [DAB, BLUE])
        write_set(tmp_path / "data", f"fluo_{name}", "fluorescence", DARK, [(20, 40, 200)])
    assert stain_fit.main([str(tmp_path / "data"), "--out", str(tmp_path / "stain.json")]) == 0
    told = json.loads((tmp_path / "stain.json").read_text())
    assert json.loads(capsys.readouterr().out) == told["figures"]
    for figure in told["figures"].values():
        assert figure["balanced_accuracy"]["value"] == 1.0
        assert set(figure["by_kind"]) == {"haematoxylin and eosin", "immunohistochemistry", "fluorescence"}
    assert told["sources"]["fluorescence"] == ["fluo_one", "fluo_two"]
    write_set(tmp_path / "other", "x", "Congo red", DARK, [EOSIN])
    with pytest.raises(InputError, match="no picture of a known stain"):
        stain_fit.read_pictures(tmp_path / "other")


def test_the_coefficients_that_come_along_are_of_these_features():
    from slidekick.data.stain import _model

    model, found = _model(), stain_features([cells((240, 240, 240), [EOSIN])])
    assert model["means"].shape == (len(KINDS), len(found))
    assert model["kinds"] == list(KINDS)
    assert model["figures"]["sources left out"]["balanced_accuracy"]["value"] > 0.6
