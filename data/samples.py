"""Two pictures of real tissue out of registry packages, so that a first look needs no data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slidekick.data.errors import InputError, SourceError
from slidekick.data.packages import Wheel, unpack

STARDIST = Wheel(
    name="stardist",
    version="0.9.2",
    sha256="2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023",
    platform="manylinux_2_28_x86_64",
)
HISTO = ("stardist/data/images/histo.jpg", "1b4f4cf440f22438d114ac629d102d2b403ff1d22ae8b00b1c674bfbca410a02")


@dataclass(frozen=True)
class Sample:
    """A sample picture. credit: where it comes from, in one sentence that may be shown beside it."""

    name: str
    stain: str
    credit: str


SAMPLES = {
    "he": Sample(
        "he",
        "H&E",
        "H&E-stained tissue from The Cancer Imaging Archive (cancerimagingarchive.net), as shipped with "
        "StarDist 0.9.2.",
    ),
    "ihc": Sample(
        "ihc",
        "IHC (DAB, haematoxylin)",
        "Colonic glands, FHL2 shown with DAB; Center for Microscopy and Molecular Imaging, as shipped with "
        "scikit-image; no known copyright restrictions.",
    ),
}


def sample(name: str) -> Path:
    """The picture's file. "he" is fetched on first use; "ihc" is part of scikit-image.

    Raises InputError for another name, SourceError when it cannot be fetched.
    """
    if name == "he":
        member, digest = HISTO
        return unpack(STARDIST, {member: digest})[member]
    if name == "ihc":
        return _ihc()
    raise InputError(f"no sample named {name!r}; there are {', '.join(SAMPLES)}")


def _ihc() -> Path:
    import skimage.data

    path = Path(skimage.data.data_dir) / "ihc.png"
    if not path.is_file():
        raise SourceError(f"{path.name}: not in this scikit-image; reinstall scikit-image 0.25 or 0.26")
    return path
