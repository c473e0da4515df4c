"""Official SAM checkpoints in the segmentor's class: the same tensors, the same masks; and files that are none.

The checkpoint holds random numbers in SAM ViT-B's own shapes; nothing is fetched.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from torch.nn import functional as F

from slidekick.data.errors import InputError
from slidekick.grounding.model import Features, SegmentorModel, pixel_tensor
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.sizes import (
    CORNER_FIRST,
    CORNER_LAST,
    NEGATIVE,
    NO_POINT,
    PHRASE_WIDTH,
    POSITIVE,
    SegmentorConfig,
)

BOX = (200.0, 300.0, 640.0, 700.0)


@pytest.fixture(scope="module")
def official():
    """SAM ViT-B by its own code, with random numbers also where it starts at zero."""
    torch.manual_seed(4)
    sam = sam_model_registry["vit_b"]().eval()
    with torch.no_grad():
        for name, tensor in sam.named_parameters():
            if "pos" in name:
                tensor.normal_(0, 0.02)
    return sam


@pytest.fixture(scope="module")
def ours(official):
    """The same numbers in our class."""
    with torch.device("meta"):
        model = SegmentorModel(SegmentorConfig.sam("vit_b"))
    model.load_state_dict(official.state_dict(), strict=True, assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(official, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b.pth"
    torch.save(official.state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def embedding() -> torch.Tensor:
    return torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def theirs(official, embedding, **prompts) -> torch.Tensor:
    """All four masks of one prompt, (4, 256, 256), as SAM's own code draws them."""
    prompts = {"points": None, "boxes": None, "masks": None} | prompts
    sparse, dense = official.prompt_encoder(**prompts)
    masks, _ = official.mask_decoder.predict_masks(embedding, official.prompt_encoder.get_dense_pe(), sparse, dense)
    return masks[0]


@torch.inference_mode()
def drawn(ours, embedding, *clicks, former=None) -> torch.Tensor:
    places = torch.tensor([[(x, y) for x, y, _ in clicks]])
    labels = torch.tensor([[label for *_, label in clicks]])
    masks, present = ours.decode(Features(embedding), torch.zeros(1, PHRASE_WIDTH), places, labels, former)
    assert present > 10, "it draws what it is pointed at"
    return masks[0]


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_the_tensors_of_each_size_are_sams_by_name_and_shape(size):
    with torch.device("meta"):
        sam, model = sam_model_registry[size](), SegmentorModel(SegmentorConfig.sam(size))
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.state_dict().items()} for one in (model, sam)]
    assert shapes[0] == shapes[1]


def test_the_image_encoder_is_sams(official, ours):
    """Of the twelve layers, the second (windows) and the third (everywhere): a sixth of the time."""
    encoders = [official.image_encoder, ours.image_encoder]
    assert str(encoders[0]) == str(encoders[1])
    assert [b.window_size for b in encoders[0].blocks] == [b.window_size for b in encoders[1].blocks]
    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    pixels = official.preprocess(torch.as_tensor(image).permute(2, 0, 1)[None])
    torch.testing.assert_close(pixel_tensor(image[None], "vit_b"), pixels, rtol=1e-5, atol=1e-5)
    layers = [encoder.blocks for encoder in encoders]
    try:
        for encoder, blocks in zip(encoders, layers, strict=True):
            encoder.blocks = blocks[1:3]
        with torch.inference_mode():
            theirs, own = official.image_encoder(pixels), ours.encode(pixels)
    finally:
        for encoder, blocks in zip(encoders, layers, strict=True):
            encoder.blocks = blocks
    torch.testing.assert_close(own.embedding, theirs, rtol=1e-3, atol=1e-3)
    assert theirs.shape == (1, 256, 64, 64)
    assert (own.fine, own.finest) == (None, None)


def test_a_box_draws_what_sam_draws(official, ours, embedding):
    x0, y0, x1, y1 = BOX
    own = drawn(ours, embedding, (x0, y0, CORNER_FIRST), (x1, y1, CORNER_LAST))
    torch.testing.assert_close(own, theirs(official, embedding, boxes=torch.tensor([BOX])), rtol=1e-3, atol=1e-3)
    other = drawn(ours, embedding, (x0 + 90, y0, CORNER_FIRST), (x1, y1, CORNER_LAST))
    assert not torch.allclose(own, other, atol=1e-2)


def test_points_and_a_former_mask_draw_what_sam_draws(official, ours, embedding):
    """SAM adds one empty point wherever there is no box."""
    clicks = [(300.0, 400.0, POSITIVE), (800.0, 100.0, NEGATIVE)]
    former = torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(2))
    given = torch.tensor([[c[:2] for c in clicks]]), torch.tensor([[c[2] for c in clicks]])
    padded = [*clicks, (0.0, 0.0, NO_POINT)]
    for mask in (None, former):
        whole = theirs(official, embedding, points=given, masks=None if mask is None else mask[:, None])
        torch.testing.assert_close(drawn(ours, embedding, *padded, former=mask), whole, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_is_loaded_as_it_is(checkpoint, official):
    segmentor = Segmentor.from_sam(checkpoint)
    assert segmentor.network.config == SegmentorConfig.sam("vit_b")
    state = segmentor.network.model.state_dict()
    for name, tensor in official.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert not any(tensor.is_meta for tensor in segmentor.network.model.buffers())


@pytest.fixture
def segmentor(ours, monkeypatch):
    """One that knows no words, and whose image encoder is a mean, so that it takes no time."""
    from slidekick.grounding.runtime import TorchNetwork
    from slidekick.grounding.vocabulary import Vocabulary

    def means(pixels):
        return F.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), 64).expand(-1, 256, -1, -1)

    monkeypatch.setitem(ours.image_encoder.__dict__, "forward", means)
    return Segmentor(TorchNetwork(ours), Vocabulary([]))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (120, 90, 3), np.uint8)


def test_it_outlines_boxes_and_points_and_knows_no_words(segmentor, image):
    (boxes,) = segmentor.segment(image, [], boxes=[(10, 10, 40, 40), (50, 60, 80, 100)])
    assert (boxes.concept, boxes.known, boxes.mask.shape) == ("object", True, (120, 90))
    assert boxes.instances.max() <= 2
    assert (boxes.probability.shape, boxes.probability.dtype) == ((120, 90), np.float32)
    assert segmentor.segment(image, [], points=[(20, 20, 1)])[0].concept == "object"
    (word,) = segmentor.segment(image, ["nucleus"])
    assert (word.known, word.found, word.nearest) == (False, False, None)


def test_points_without_a_box_bring_the_empty_point_that_sam_was_taught_with(segmentor, image, monkeypatch):
    asked = []
    decode = segmentor.network.decode
    monkeypatch.setattr(segmentor.network, "decode", lambda *a: asked.append(a[3].tolist()) or decode(*a))
    segmentor.segment(image, [], points=[(20, 20, 1), (50, 60, 0)])
    assert asked[:2] == [[[POSITIVE, NO_POINT]], [[POSITIVE, NEGATIVE, NO_POINT]]]
    asked.clear()
    segmentor.segment(image, [], points=[(20, 20, 1)], boxes=[(10, 10, 40, 40)])
    assert asked == [[[CORNER_FIRST, CORNER_LAST]], [[CORNER_FIRST, CORNER_LAST, POSITIVE]]]


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def hostile(path: Path) -> None:
    path.write_bytes(pickle.dumps({"image_encoder.patch_embed.proj.weight": Hostile()}, protocol=2))


def hostile_archive(path: Path) -> None:
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(768)}, path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, pickle.dumps(Hostile(), protocol=2) if name.endswith("data.pkl") else content)


def truncated(path: Path) -> None:
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)}, path)
    path.write_bytes(path.read_bytes()[:-5000])


def another_model(path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, path)


def too_few_tensors(path: Path) -> None:
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)}, path)


def another_size(path: Path) -> None:
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(5, 3, 16, 16)}, path)


def a_list(path: Path) -> None:
    torch.save([1, 2, 3], path)


def a_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no tensors here, only text that goes on")


def a_folder(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "write",
    [
        hostile, hostile_archive, truncated, another_model, too_few_tensors, another_size,
        a_list, a_tensor, no_bytes, text, a_folder, nothing,
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_told_in_one_line_and_runs_nothing(tmp_path, monkeypatch, write, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"sam{suffix}"
    write(path)
    with pytest.raises(InputError, match=f"sam{suffix}: no official SAM checkpoint .*give such as") as caught:
        Segmentor.from_sam(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()
