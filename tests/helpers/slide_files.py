"""Slides and pictures made on the spot, so that no test needs a file of ours."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from slidekick.data.items import Item

LUNG_COLOURS = {
    "benign lung tissue": (200, 60, 60),
    "lung adenocarcinoma": (60, 160, 60),
    "lung squamous cell carcinoma": (60, 60, 200),
}


def tissue_like(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3): smooth colour blobs, so that resampling can be compared."""
    coarse = np.random.default_rng(seed).integers(30, 226, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_pyramid(path: Path, pixels: np.ndarray, levels: int, mpp: float | None, text: str = "") -> Path:
    """A tiled TIFF with `levels` halvings, as scanners and converters write it."""
    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            size = (pixels.shape[1] >> level, pixels.shape[0] >> level)
            part = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
            kind = {"subfiletype": 1} if level else {"description": text, **scale}
            writer.write(part, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None, **kind)
    return path


def write_dicom(path: Path, pixels: np.ndarray, tile: int = 64) -> Path:
    """One uncompressed level in full order, as a converter writes it; sides of whole tiles."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    from slidekick.data.readers.dicom import SLIDE_CLASS

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SLIDE_CLASS
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["made here"])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.DimensionOrganizationType = "TILED_FULL"
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = height, width = pixels.shape[:2]
    data.Rows = data.Columns = tile
    frames = pixels.reshape(height // tile, tile, width // tile, tile, 3).swapaxes(1, 2)
    data.NumberOfFrames = frames.shape[0] * frames.shape[1]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = frames.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def lung_items(folder: Path, split: str = "test") -> list[Item]:
    """A picture of one colour for each of three tissues, grained as tissue is and ink is not."""
    items, rng = [], np.random.default_rng(0)
    for name, colour in LUNG_COLOURS.items():
        file = folder / f"{split}-{name}.png"
        grain = np.repeat(np.repeat(rng.integers(-50, 51, (24, 32, 1)), 4, 0), 4, 1)
        Image.fromarray(np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)).save(file)
        items.append(Item("lc25000_lung", file.stem, file, split, label=name))
    return items
