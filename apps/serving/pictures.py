"""What a request shows: a picture in a data URI, or a slide, or a region of one, in an opened folder.

Nothing is fetched from anywhere: a server that reads addresses for its callers reads those of its own network too
(SSRF). Files are read by the one way that everything here is read, so that what is truncated, huge or no picture gets
the same line as on the command line.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
import threading
import weakref
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from slidekick.apps.loading import is_slide
from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.requests import ImageUrl, SlidePart
from slidekick.apps.serving.slides import by_name, version
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.survey import Survey
from slidekick.data.errors import InputError
from slidekick.data.slide import Roi, open_slide, read_roi

TYPES = {"png": ".png", "jpeg": ".jpg", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
SURVEYS = 8  # kept: some MB each, where making one takes most of a minute


class Eyes:
    """Reads what requests show. folders: those opened. Threads may use it at once."""

    def __init__(self, copilot: Copilot, folders: Folders) -> None:
        self.copilot, self.folders = copilot, folders
        self._surveys: OrderedDict[tuple, Survey] = OrderedDict()
        self._lock, self._making = threading.Lock(), threading.Lock()

    def look(self, picture: ImageUrl | SlidePart) -> Roi | Survey:
        """The picture's pixels, or the survey of a slide that is asked about as a whole.

        Raises InputError for an address, for what is no picture, and for a name outside the opened folders.
        """
        if isinstance(picture, ImageUrl):
            return decoded(picture)
        return self.read(self.folders.find(picture.name), picture)

    def read(self, file: Path, picture: SlidePart) -> Roi | Survey:
        """The same of a file that was found already."""
        with by_name(file):
            if picture.region is None:
                with open_slide(file) as slide:
                    slide.state_scale(picture.mpp)
                    whole = is_slide(slide, picture.mpp)
                if whole:
                    return self._survey(file, picture.mpp)
            return read_roi(file, picture.region, picture.mpp)

    def _survey(self, file: Path, mpp: float | None) -> Survey:
        key = (*version(file), mpp)
        if (known := self._kept(key)) is not None:
            return known
        with self._making:  # one at a time: it takes all cores
            if (known := self._kept(key)) is not None:
                return known
            slide = open_slide(file)
            try:
                slide.state_scale(mpp)
                survey = self.copilot.survey(slide)
            except BaseException:
                slide.close()
                raise
            # A slide that goes from here is closed when the last answer about it lets it go.
            weakref.finalize(survey, slide.close)
            with self._lock:
                self._surveys[key] = survey
                if len(self._surveys) > SURVEYS:
                    self._surveys.popitem(last=False)
            return survey

    def _kept(self, key: tuple) -> Survey | None:
        with self._lock:
            if key in self._surveys:
                self._surveys.move_to_end(key)
            return self._surveys.get(key)


def decoded(picture: ImageUrl) -> Roi:
    """The picture in a data URI. Raises InputError for an address, for other content, and for what is no picture."""
    head, comma, data = picture.url.partition(",")
    kind, _, rest = head.removeprefix("data:image/").partition(";")
    if not head.startswith("data:"):
        raise InputError(f"image_url {picture.url[:40]!r}: addresses are not fetched; send the picture as a data URI")
    if not comma or not head.startswith("data:image/") or kind not in TYPES or rest != "base64":
        raise InputError(f"image_url {head[:40]!r}: give data:image/png;base64,... or jpeg, webp, tiff, bmp")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise InputError("image_url: the data URI is not base64; encode the file's bytes") from error
    with tempfile.NamedTemporaryFile(suffix=TYPES[kind]) as file:
        file.write(content)
        file.flush()
        try:
            return replace(read_roi(file.name, None, picture.mpp), source="picture")
        except InputError as error:
            told = str(error).replace(file.name, "picture").replace(Path(file.name).name, "picture")
            raise InputError(told) from None
