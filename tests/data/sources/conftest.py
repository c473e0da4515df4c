"""Every public data set in little, in the layout of its publishers' archives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

GRADES = (
    "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\r"
    "testA_1,4, benign, adenomatous\rtrain_1,2, malignant, moderately-to-poorly differentated\r"
    "train_9,10, benign, healthy\r"
)
INFO = (
    "Filename,Source,Split\nconsep_1,test_14,3\nconsep_2,train_23,3\ncrag_1,train_105,3\n"
    "dpath_2,1902160001_2019-06-11 12_36_32-lv1-39045-16016-3312-4096,2\n"
    "dpath_15,1902160001_2019-06-11 12_36_32-lv1-44190-20016-5916-4469,2\nglas_1,testB_10,1\npannuke_1,None,3\n"
)
CODES = (
    "label\tGT_code\noutside_roi\t0\ntumor\t1\nstroma\t2\nlymphocytic_infiltrate\t3\nexclude\t7\nundetermined\t15\n"
    "blood_vessel\t18\nother\t21\n"
)


def pixels(width: int, height: int, name: str, channels: int = 3) -> np.ndarray:
    """Noise that is another for every name, so that a picture put in another's place shows."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, (height, width, channels), np.uint8)


def squares(width: int, height: int, *corners: tuple[int, int, int], side: int = 4, dtype=np.int32) -> np.ndarray:
    """(height, width) zeros with squares of `side` px at (x, y) of the given value."""
    values = np.zeros((height, width), dtype)
    for x, y, value in corners:
        values[y : y + side, x : x + side] = value
    return values


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def mat(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays, do_compression=True)


def imagescope(*outlines: list[tuple[float, float]], mpp: str = "0.252000") -> str:
    """An annotation file as Aperio ImageScope writes it."""
    regions = "".join(
        f'<Region Id="{number}" Type="0" NegativeROA="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in outline)
        + "</Vertices></Region>"
        for number, outline in enumerate(outlines, 1)
    )
    return (
        f'<Annotations MicronsPerPixel="{mpp}"><Annotation Id="1"><Attributes/><Regions><RegionAttributeHeaders/>'
        f"{regions}</Regions><Plots/></Annotation></Annotations>"
    )


def box(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def pannuke(root: Path) -> None:
    for fold, organs in ((1, ["Breast", "Bile-duct"]), (2, ["HeadNeck"]), (3, ["Adrenal_gland"])):
        images, masks = (root / f"Fold {fold}" / kind / f"fold{fold}" for kind in ("images", "masks"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        channels = np.zeros((len(organs), 256, 256, 6))
        channels[..., 0] = squares(256, 256, (10, 10, 3), (30, 30, 7))
        channels[..., 1] = squares(256, 256, (50, 50, 3))
        channels[..., 4] = squares(256, 256, (12, 12, 1))  # two pixels each way under the first
        channels[..., 5] = channels[..., :5].sum(-1) == 0
        np.save(images / "images.npy", np.stack([pixels(256, 256, organ) for organ in organs]).astype(float))
        np.save(images / "types.npy", np.array(organs))
        np.save(masks / "masks.npy", channels)


def monuseg(root: Path) -> None:
    train, test = root / "MoNuSeg 2018 Training Data", root / "MoNuSegTestData"
    left_behind = root / "__MACOSX" / train.name / "Tissue Images" / "._TCGA-A7-A13E-01Z-00-DX1.tif"
    for folder in (train / "Tissue Images", train / "Annotations", test, left_behind.parent):
        folder.mkdir(parents=True)
    left_behind.write_bytes(b"\0\5\26\7")
    for images, outlines, name in (
        (train / "Tissue Images", train / "Annotations", "TCGA-A7-A13E-01Z-00-DX1"),
        (train / "Tissue Images", train / "Annotations", "TCGA-18-5592-01Z-00-DX1"),
        (test, test, "TCGA-2Z-A9J9-01A-01-TS1"),
    ):
        tifffile.imwrite(images / f"{name}.tif", pixels(40, 30, name), photometric="rgb")
        text = imagescope(box(2, 3, 5), [(1, 1), (9, 9)], box(5, 3, 6), box(38, 28, 5))
        (outlines / f"{name}.xml").write_text(text)


def lizard(root: Path) -> None:
    for folder, name in (
        ("Lizard_Images1", "consep_1"),
        ("Lizard_Images1", "consep_2"),
        ("Lizard_Images1", "crag_1"),
        ("Lizard_Images2", "dpath_2"),
        ("Lizard_Images2", "dpath_15"),
        ("Lizard_Images2", "glas_1"),
        ("Lizard_Images2", "pannuke_1"),
    ):
        save(root / folder.lower() / folder / f"{name}.png", pixels(50, 40, name))
        save(root / "overlay" / "Overlay" / f"{name}.png", pixels(50, 40, "overlay"))
        mat(
            root / "lizard_labels" / "Lizard_Labels" / "Labels" / f"{name}.mat",
            inst_map=squares(50, 40, (3, 5, 1), (20, 5, 2), (30, 30, 9)),
            id=np.array([[1], [9], [2]]),
            **{"class": np.array([[2], [5], [6]])},
            bbox=np.zeros((3, 4)),
            centroid=np.zeros((3, 2)),
        )
    (root / "lizard_labels" / "Lizard_Labels" / "info.csv").write_text(INFO)


def glas(root: Path) -> None:
    folder = root / "Warwick QU Dataset (Released 2016_07_08)"
    for name in ("testA_1", "train_1", "train_9"):
        save(folder / f"{name}.bmp", pixels(60, 45, name))
        ids = Image.fromarray(squares(60, 45, (3, 3, 1), (30, 20, 4), side=9, dtype=np.uint8))
        if name == "train_9":  # the numbers stored count, not the colours that they are shown in
            ids.putpalette(bytes(range(255, -1, -1)) * 3)
        ids.save(folder / f"{name}_anno.bmp")
    (folder / "Grade.csv").write_bytes(GRADES.encode())


def bcss(root: Path) -> None:
    folder = root / "0_Public-data-Amgad2019_0.25MPP"
    for name in (
        "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500",
        "TCGA-A2-A04P-DX1_xmin104246_ymin48517_MPP-0.2500",
        "TCGA-OL-A5D6-DX1_xmin115108_ymin40554_MPP-0.2500",
    ):
        save(folder / "rgbs_colorNormalized" / f"{name}.png", pixels(150, 80, name))
        values = squares(150, 80, (0, 0, 1), (75, 0, 2), (0, 30, 7), (40, 30, 18), side=30, dtype=np.uint8)
        save(folder / "masks" / f"{name}.png", values)
    (folder / "meta").mkdir()
    (folder / "meta" / "gtruth_codes.tsv").write_text(CODES)


def consep(root: Path) -> None:
    for part, name in (("Train", "train_1"), ("Train", "train_2"), ("Test", "test_1")):
        folder = root / "CoNSeP" / part
        save(folder / "Images" / f"{name}.png", pixels(40, 30, name, 4))  # with an alpha channel, as some are
        save(folder / "Overlay" / f"{name}.png", pixels(40, 30, "overlay"))
        mat(
            folder / "Labels" / f"{name}.mat",
            inst_map=squares(40, 30, (2, 2, 1), (20, 20, 5), dtype=float),
            type_map=squares(40, 30, (2, 2, 4), (20, 20, 7), dtype=float),
            inst_type=np.array([[4.0], [7.0]]),
            inst_centroid=np.zeros((2, 2)),
        )


def nuinsseg(root: Path) -> None:
    for organ, name, vague in (
        ("human bladder", "human_bladder_01", "vague areas/mask binary"),
        ("human bladder", "human_bladder_02", "vague areas/mask binary"),
        ("mouse muscle_tibia", "mouse_muscle_tibia_01", "vague areas/mask binary_vague"),
        ("human salivory gland", "human_salivory_gland_01", None),
    ):
        ids = squares(64, 64, (3, 3, 1), (30, 30, 300), side=8, dtype=np.uint16)
        save(root / organ / "tissue images" / f"{name}.png", pixels(64, 64, name))
        (root / organ / "label masks modify").mkdir(exist_ok=True)
        tifffile.imwrite(root / organ / "label masks modify" / f"{name}.tif", ids)
        save(root / organ / "mask binary" / f"{name}.png", ((ids > 0) * 255).astype(np.uint8))
        if vague:
            unclear = squares(64, 64, (5, 5, 255), (50, 50, 255), side=8, dtype=np.uint8)
            save(root / organ / vague / f"{name}.png", unclear)


def ebhi_seg(root: Path) -> None:
    for diagnosis, name in (
        ("Adenocarcinoma", "GT2001837-1-400-001"),
        ("High-grade IN", "GTXC2014129-2-400-001"),
        ("Serrated adenoma", "GTxc2014129-3-400-001"),
        ("Normal", "GT2001837-1-400-001"),
    ):
        folder = root / "EBHI-SEG" / diagnosis
        save(folder / "image" / f"{name}.png", pixels(56, 56, diagnosis))
        drawn = squares(56, 56, (10, 10, 255), side=20, dtype=np.uint8)
        if diagnosis == "High-grade IN":
            drawn = np.repeat(drawn[..., None], 3, axis=2)
        label = Image.fromarray(drawn)
        (folder / "label").mkdir()
        (label.convert("1") if diagnosis == "Serrated adenoma" else label).save(folder / "label" / f"{name}.png")
    save(root / "EBHI-SEG" / "Normal" / "image" / "GT2000000-1-400-001.png", pixels(56, 56, "unlabelled"))


WRITERS = {writer.__name__: writer for writer in (pannuke, monuseg, lizard, glas, bcss, consep, nuinsseg, ebhi_seg)}


@pytest.fixture
def published(tmp_path) -> Callable[[str], Path]:
    """Writes a data set as its publishers do; the folder that it was unpacked to."""

    def write(name: str) -> Path:
        folder = tmp_path / "published" / name
        folder.mkdir(parents=True)
        WRITERS[name](folder)
        return folder

    return write
