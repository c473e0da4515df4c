"""What a picture must show before a model reads it: something, of a kind that it was taught, that can answer at all.

A blank field or noise is told by the pixels alone. Whether a picture is of a kind that was taught is told by the
tower's pooled map: the share of its deviation from the training pictures' mean that lies outside their principal axes
(the residual of ViM, Wang et al. 2022, arXiv 2203.10807, relative to the whole). Photographs and tissue of a kind never
taught lie outside; what a model says of them is made up. Whether a question is one that no picture answers, such as the
patient's age, is told by the mean of its words' embeddings. All that was fitted lies in `sight.safetensors` beside the
weights that it was fitted for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slidekick.copilot.mini import SIGHT, TOWER
from slidekick.data.errors import InputError
from slidekick.data.files import files_hash, write_atomic

SCHEMA = "slidekick.sight/1"
LOOK_PX, BLUR_PX = 192, 4.0  # side of the picture that is looked at, and the blur behind which fine grain is gone
# Of 1 323 held-out pictures of 37 sets the palest spans .166 and the grainiest has .064; glass spans .10 where a lamp
# shades it, noise has .007.
LEAST_SPAN, LEAST_SHARE = 0.12, 0.03
# Stains have colours and fluorescence is dark: of 4 168 pictures no bright one is paler than .007, and those without
# any colour have a mean value of .22 at most.
LEAST_COLOUR, BRIGHT = 0.005, 0.3
AXES = 128
RARE = 0.003  # share of held-out pictures of taught kinds that may be taken for strange

# Beyond the threshold by this much a picture is taken for none of tissue: most photographs lie there, and 2 % of the
# pictures of a set that was left out, on average over sets.
FOREIGN_BY = 0.08

BLANK = "No tissue was found: the picture is blank, or nothing but noise."
FOREIGN = "No tissue was recognised: the picture is unlike all that the model was taught."
UNTOLD = "This cannot be told from a picture of tissue."
STRANGE = "the picture is unlike all that the model was taught: do not rely on what it reads, and check each mask"


def is_blank(pixels: np.ndarray) -> bool:
    """Whether uint8 (H, W, 3) shows nothing: its blurred optical density hardly varies, or all that varies is grain."""
    import cv2

    small = cv2.resize(pixels, (LOOK_PX, LOOK_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    coarse = cv2.GaussianBlur(small, (0, 0), BLUR_PX)
    density = -np.log((coarse.reshape(-1, 3) + 1) / 256)
    low, high = np.percentile(density, (1, 99), axis=0)
    varied = float(small.reshape(-1, 3).var(0).sum())
    return float((high - low).max()) < LEAST_SPAN or float(coarse.reshape(-1, 3).var(0).sum()) < LEAST_SHARE * varied


def is_colourless(pixels: np.ndarray) -> bool:
    """Whether uint8 (H, W, 3) is grey and bright, as no stained tissue and no fluorescence is."""
    import cv2

    small = cv2.resize(pixels, (LOOK_PX, LOOK_PX), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    value, spread = small.max(2), small.max(2) - small.min(2)
    return bool((spread / np.maximum(value, 1e-6)).mean() < LEAST_COLOUR and value.mean() > BRIGHT)


@dataclass(frozen=True)
class Taught:
    """mean: float32 (D,) of pooled maps, axes: float32 (A, D) with rows of length 1, of the pictures that were taught.
    most: share outside the axes from which what is read is not to be relied on. asked, bias: float32 (Q,) and a
    number: above 0 a question's vector is one that no picture answers."""

    mean: np.ndarray
    axes: np.ndarray
    most: float
    asked: np.ndarray | None = None
    bias: float = 0.0

    def untold(self, question: np.ndarray) -> bool:
        """Whether a question with this vector, (Q,), is one that no picture answers."""
        return self.asked is not None and float(self.asked @ question) + self.bias > 0

    def outside(self, maps: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,): share of each map's deviation that lies outside the axes, from 0 to 1."""
        off = np.atleast_2d(maps).astype(np.float64) - self.mean
        kept = off @ self.axes.T.astype(np.float64)
        whole = (off**2).sum(1)
        return np.sqrt(np.maximum(whole - (kept**2).sum(1), 0) / np.maximum(whole, 1e-12))

    def why_not(self, pooled: np.ndarray) -> str:
        """`FOREIGN`, `STRANGE` or "" for a picture with this pooled map, (D,)."""
        beyond = float(self.outside(pooled)[0]) - self.most
        return FOREIGN if beyond > FOREIGN_BY else STRANGE if beyond > 0 else ""

    def save(self, folder: Path) -> Path:
        """Write `sight.safetensors` beside the tower that made the maps, in half precision. Raises OutputError."""
        from safetensors.numpy import save

        tower = files_hash([folder / TOWER])
        told = {"schema": SCHEMA, "most": round(self.most, 4), "tower": tower, "bias": round(self.bias, 5)}
        about = {"about": json.dumps(told)}
        arrays = {"mean": self.mean.astype(np.float16), "axes": self.axes.astype(np.float16)}
        if self.asked is not None:
            arrays["asked"] = self.asked.astype(np.float32)
        return write_atomic(folder / SIGHT, save(arrays, about))


class Sight:
    """What keeps a model from reading what it cannot. taught: where that was fitted; else blanks alone are told."""

    def __init__(self, taught: Taught | None = None) -> None:
        self.taught = taught

    def untold(self, question: str, engine) -> bool:
        """Whether a question is one that no picture answers. engine: its `question` gives the vector."""
        fitted = self.taught is not None and self.taught.asked is not None
        return fitted and self.taught.untold(engine.question(question))

    def why_not(self, pixels: np.ndarray, engine) -> str:
        """`BLANK`, `FOREIGN`, `STRANGE`, or "" for uint8 (H, W, 3) that can be read. engine: it gives the map."""
        if is_blank(pixels):
            return BLANK
        if self.taught is None:
            return ""
        return FOREIGN if is_colourless(pixels) else self.taught.why_not(engine.pooled(pixels))


def fit_taught(taught: np.ndarray, held: np.ndarray) -> Taught:
    """Of pooled maps (N, D) of pictures that were taught, and (M, D) of held-out ones of the same kinds, by which the
    threshold is set. Raises InputError for fewer pictures than axes."""
    if len(taught) <= AXES or not len(held):
        raise InputError(f"{len(taught)} pictures taught, {len(held)} held out; fitting takes more than {AXES} and 1")
    mean = taught.mean(0)
    axes = np.linalg.svd(taught - mean, full_matrices=False)[2][:AXES]
    all_known = Taught(mean.astype(np.float32), axes.astype(np.float32), 1.0)
    return replace(all_known, most=float(np.quantile(all_known.outside(held), 1 - RARE)))


def load_taught(folder: Path) -> Taught | None:
    """What lies in a model's folder; None where nothing does, or it was fitted for another tower. Raises InputError for
    a file that cannot be used."""
    path = folder / SIGHT
    if not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            about = json.loads(file.metadata()["about"])
            mean, axes = (file.get_tensor(name).astype(np.float32) for name in ("mean", "axes"))
            asked = file.get_tensor("asked").astype(np.float32) if "asked" in file.keys() else None  # noqa: SIM118
        if about["schema"] != SCHEMA or axes.ndim != 2 or mean.shape != axes.shape[1:] or np.ndim(asked) > 1:
            raise ValueError("another schema or shape")
        found = Taught(mean, axes, float(about["most"]), asked, float(about.get("bias", 0.0)))
        tower = about["tower"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as {SCHEMA} ({error}); remove it, or fit it anew with "
            "`slidekick evaluate classify --calibrate`"
        ) from error
    return found if tower == files_hash([folder / TOWER]) else None
