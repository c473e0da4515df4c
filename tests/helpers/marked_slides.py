"""Slides whose metadata carry marked identifiers, of every format that can be written here or a scanner's own; and the
search for those marks in what is said and written of them."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import skimage.data
import tifffile
from PIL import Image, PngImagePlugin
from slide_files import write_dicom

MARKS = ("ZQXDOE", "ACC7731904", "19620304")  # a name, an accession number, a date of birth
NAME, ACCESSION, BORN = MARKS
SAID = f"Patient = {NAME}^Jane|Accession = {ACCESSION}|DOB = {BORN}|Title = {ACCESSION}|User = {NAME}|Date = {BORN}"
LABEL = (255, 0, 255)  # the colour of labels and overviews: no tissue has it
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
TEXT_TAGS = ("DateTime", "Artist", "HostComputer", "Software", "Copyright", "Make", "Model", "DocumentName")


def tissue() -> np.ndarray:
    """uint8 (512, 640, 3): real tissue on glass."""
    pixels = np.full((512, 640, 3), 240, np.uint8)
    pixels[64:448, 64:448] = skimage.data.immunohistochemistry()[:384, :384, :3]
    return pixels


def write_marked(folder: Path) -> list[Path]:
    """One file of every format, each with `MARKS` wherever that format has room for words, and a label in `LABEL`."""
    pixels = tissue()
    whole = Image.fromarray(pixels)
    words = PngImagePlugin.PngInfo()
    for key in ("Author", "Description", "PatientName", "Comment"):
        words.add_itxt(key, SAID)
    whole.save(folder / "a.png", pnginfo=words, exif=exif(whole))
    whole.save(folder / "b.jpg", exif=exif(whole), comment=SAID, quality=95)
    aside = np.full((64, 96, 3), LABEL, np.uint8)
    with tifffile.TiffWriter(folder / "c.svs") as writer:
        options = {"photometric": "rgb", "metadata": None, "compression": "zlib", "software": SAID}
        head = f"Aperio Image Library v11\r\n640x512 [0,0 640x512] (128x128)|AppMag = 20|MPP = 0.5|{SAID}"
        writer.write(pixels, tile=(128, 128), description=head, datetime="1962:03:04 00:00:00", **options)
        writer.write(pixels[::2, ::2].copy(), tile=(128, 128), subfiletype=1, **options)
        for name in ("label", "macro"):
            writer.write(aside, description=f"Aperio Image Library\r\n{name} 96x64|{SAID}", subfiletype=9, **options)
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    ome = {"axes": "YXS", "Name": SAID, "Description": SAID, "AcquisitionDate": "1962-03-04T00:00:00", **scale}
    tifffile.imwrite(folder / "d.ome.tif", pixels, tile=(128, 128), photometric="rgb", metadata=ome)
    kind = "PerkinElmer-QPI-ImageDescription"
    akoya = f"<{kind}><ImageType>FullResolution</ImageType><SlideID>{SAID}</SlideID></{kind}>"
    options = {"photometric": "rgb", "metadata": None, "resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    for name, said, software in (("e.qptiff", akoya, "PerkinElmer-QPI"), ("f.tif", SAID, SAID)):
        tifffile.imwrite(folder / name, pixels, tile=(128, 128), description=said, software=software, **options)
    write_dicom(folder / "g.dcm", pixels)
    for name in "abcdefg":
        for path in folder.glob(f"{name}.*"):
            mark(path)
    return sorted(folder.iterdir())


def exif(picture: Image.Image) -> Image.Exif:
    """Artist, description, date, maker and copyright."""
    tags = picture.getexif()
    tags.update({0x013B: SAID, 0x010E: SAID, 0x0132: "1962:03:04 00:00:00", 0x010F: NAME, 0x8298: SAID})
    return tags


def marked(source: Path, folder: Path) -> Path:
    """A copy of a slide, or of a folder of a series, with `MARKS` added to what its metadata say."""
    copy = folder / source.name
    if source.is_dir():
        shutil.copytree(source, copy)
        for path in copy.iterdir():
            mark(path)
    else:
        shutil.copy(source, copy)
        mark(copy)
    return copy


def mark(path: Path) -> None:
    """Write `MARKS` into a file of DICOM or TIFF's kind; others are left as they are."""
    with path.open("rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        data = pydicom.dcmread(path)
        data.PatientName, data.PatientID, data.AccessionNumber, data.PatientBirthDate = f"{NAME}^Jane", *MARKS[1:], BORN
        data.StudyDescription = data.SeriesDescription = data.ImageComments = SAID
        data.ContainerIdentifier = data.BarcodeValue = ACCESSION
        data.StudyDate = data.ContentDate = BORN
        data.InstitutionName = data.OperatorsName = data.ReferringPhysicianName = NAME
        data.LabelText = SAID
        pydicom.dcmwrite(path, data)
    elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        with tifffile.TiffFile(path, mode="r+b") as file:
            for page in file.pages:
                for tag in (page.keyframe if isinstance(page, tifffile.TiffFrame) else page).tags:
                    _mark_tag(tag)


def _mark_tag(tag: tifffile.TiffTag) -> None:
    """Text is added to descriptions, where readers take the scale from; other words give way."""
    if tag.name in TEXT_TAGS:
        tag.overwrite(SAID)
    elif tag.name == "ImageDescription" and isinstance(tag.value, str):
        if "<" not in tag.value:
            tag.overwrite(tag.value.rstrip("\0") + "|" + SAID)
        elif "</" in tag.value:  # as a comment, which any reader of XML passes over
            begin, end, rest = tag.value.rpartition("</")
            tag.overwrite(f"{begin}<!-- {SAID} -->{end}{rest}".encode())


def told(content: bytes, name: str) -> list[str]:
    """The marks that a file's content holds: as it is, in UTF-16, packed, or beside a picture's pixels."""
    texts = [content]
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            return [mark for part in packed.namelist() for mark in told(packed.read(part), part)]
    if name.endswith(PICTURES):
        with Image.open(io.BytesIO(content)) as picture:
            texts += [repr(picture.info).encode(), repr(dict(picture.getexif())).encode()]
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
        if (np.abs(pixels - LABEL).max(1) < 24).mean() > 0.01:
            return [f"the label's colour in {name}"]
    found = [mark for mark in MARKS for text in texts if mark.encode() in text or mark.encode("utf-16-le") in text]
    return [f"{mark} in {name}" for mark in found]


def searched(folder: Path) -> list[str]:
    """`told` of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [one for path in files for one in told(path.read_bytes(), path.name)]
