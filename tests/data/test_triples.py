"""What labelled pictures say of the terms of the hierarchy, on pictures of a few pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.data.ontology import load_ontology
from slidekick.data.triples import UNLABELLED, judged, pixels_of, triples, truth

SIZE = (12, 20)  # height, width


@pytest.fixture
def write(tmp_path):
    """A function: set, classes, mask and ids (arrays, or None) and further fields -> an Item with files."""
    made = []

    def one(kind: str, classes=None, mask=None, ids=None, **more) -> Item:
        made.append(kind)
        stem = tmp_path / f"{len(made)}"
        shape = next((array.shape for array in (mask, ids) if array is not None), SIZE)
        places = {"image": stem.with_suffix(".image.png")}
        Image.fromarray(np.full((*shape, 3), 200, np.uint8)).save(places["image"])
        for name, array, depth in (("mask", mask, np.uint8), ("instances", ids, np.uint16)):
            if array is not None:
                places[name] = stem.with_suffix(f".{name}.png")
                Image.fromarray(array.astype(depth)).save(places[name])
        return Item(kind, str(len(made)), split="train", classes=classes or {}, **places, **more)

    return one


def blocks(*boxes: tuple[int, int, int, int, int], shape=SIZE) -> np.ndarray:
    """Boxes (y0, x0, y1, x1, value) on 0."""
    array = np.zeros(shape, np.uint16)
    for y0, x0, y1, x1, value in boxes:
        array[y0:y1, x0:x1] = value
    return array


def said(item: Item, *concepts: str) -> dict[str, tuple]:
    return {t.concept: (t.mode, t.values) for t in triples([item], concepts or None)}


def of(item: Item, concept: str):
    (found,) = triples([item], [concept])
    return found


def test_a_marked_class_says_where_it_is_and_what_it_is_a_case_of(write):
    item = write("mine", {1: "lymphocyte", 2: "macrophage", 3: "benign gland"}, blocks((1, 1, 4, 4, 1)))
    told = said(item)
    assert told["lymphocyte"] == ("mask", (1,))
    assert told["macrophage nucleus"] == ("mask", (2,))
    assert told["nucleus"] == ("mask", (1, 2))
    assert told["gland"] == told["benign gland"] == ("mask", (3,))
    assert set(told) == {"lymphocyte", "macrophage nucleus", "nucleus", "gland", "benign gland"}


def test_a_class_that_means_two_terms_is_drawn_as_both(write):
    item = write("mine", {4: "colorectal adenocarcinoma", 5: "stroma"}, blocks((1, 1, 4, 4, 4)))
    assert said(item) == {name: ("mask", (v,)) for name, v in (("gland", 4), ("tumour", 4), ("stroma", 5))}


def test_a_union_is_drawn_wherever_any_case_of_it_is(write):
    mask = blocks((0, 0, 4, 4, 1), (6, 6, 9, 9, 2), (0, 10, 4, 14, 3))
    item = write("mine", {1: "lymphocyte", 2: "epithelial cells", 3: "stroma"}, mask)
    drawn, _ = truth(of(item, "nucleus"))
    np.testing.assert_array_equal(drawn, (mask == 1) | (mask == 2))


def test_a_class_that_is_nowhere_in_the_picture_is_drawn_empty(write):
    drawn, ids = truth(of(write("mine", {1: "nucleus", 2: "stroma"}, blocks((0, 0, 3, 3, 2))), "nucleus"))
    assert (drawn.dtype, drawn.any(), ids.any()) == (bool, False, False)


def test_unknown_classes_and_pictures_without_masks_say_nothing(write):
    assert said(write("mine", {1: "background", 2: "unicorn"}, blocks((0, 0, 3, 3, 1)))) == {}
    assert said(write("mine", {1: "nucleus"})) == {}
    assert said(write("mine", label="adipose tissue")) == {}


def test_concepts_are_told_in_the_items_order_then_as_asked(write):
    first, second = (write("mine", {1: "nucleus", 2: "stroma"}, blocks((0, 0, 3, 3, 1))) for _ in range(2))
    found = triples([second, first], ["stroma", "nucleus"])
    assert [(t.item.id, t.concept) for t in found] == [
        (item.id, name) for item in (second, first) for name in ("stroma", "nucleus")
    ]


def test_pixels_that_nobody_judged_are_known(write):
    mask = blocks((0, 0, 4, 4, 1), (8, 8, 12, 12, UNLABELLED))
    item = write("mine", {1: "nucleus"}, mask)
    drawn, ids = truth(of(item, "nucleus"))
    np.testing.assert_array_equal(drawn, mask == 1)
    np.testing.assert_array_equal(ids > 0, mask == 1)
    np.testing.assert_array_equal(judged(of(item, "nucleus")), mask != UNLABELLED)
    everywhere = write("mine", {1: "nucleus"}, np.where(mask == UNLABELLED, 0, mask))
    assert judged(of(everywhere, "nucleus")) is None
    assert judged(of(write("camelyon_mets", {1: "metastatic tumour"}, mask), "gland")) is None


def test_ids_tell_objects_apart_and_only_those_of_the_term(write):
    mask = blocks((0, 0, 4, 4, 1), (0, 4, 4, 8, 1), (8, 0, 12, 4, 2))
    ids = blocks((0, 0, 4, 4, 7), (0, 4, 4, 8, 9), (8, 0, 12, 4, 11))
    item = write("mine", {1: "lymphocyte", 2: "stroma"}, mask, ids)
    drawn, own = truth(of(item, "lymphocyte"))
    np.testing.assert_array_equal(own, ids * drawn)
    assert (own.dtype, set(np.unique(own))) == (np.int32, {0, 7, 9})
    assert truth(of(item, "stroma"))[1] is None, "a region has no objects"


def test_ids_alone_are_drawn_where_any_object_is(write):
    ids = blocks((0, 0, 4, 4, 3), (6, 6, 9, 9, 300))
    found = of(write("mine", {1: "nucleus"}, ids=ids), "nucleus")
    assert (found.mode, found.values, found.objects) == ("mask", None, "ids")
    drawn, own = truth(found)
    np.testing.assert_array_equal(own, ids)
    np.testing.assert_array_equal(drawn, ids > 0)
    assert judged(found) is None


def two_discs() -> np.ndarray:
    ys, xs = np.mgrid[:40, :60]
    return [(xs - x) ** 2 + (ys - 20) ** 2 < 81 for x in (20, 36)]


def test_objects_without_ids_are_told_apart_as_the_set_needs_it(write):
    """monuseg's touch and merge, wbc_zheng shows one cell, elsewhere each connected piece is an object."""
    left, right = two_discs()
    mask = (left | right).astype(np.uint8)
    mask[0:3, 0:3] = 1
    number = {}
    for name in ("monuseg", "mine", "wbc_zheng"):
        item = write(name, {1: "cell nucleus" if name == "wbc_zheng" else "nucleus", 2: "stroma"}, mask)
        drawn, ids = truth(of(item, "nucleus"))
        np.testing.assert_array_equal(drawn, ids > 0)
        assert ids.dtype == np.int32
        number[name] = ids.max()
        if name == "monuseg":
            assert len(np.unique(ids[left & ~right])) == len(np.unique(ids[right & ~left])) == 1
    assert number == {"monuseg": 3, "mine": 2, "wbc_zheng": 1}
    assert of(item, "stroma").objects == "none"


def test_what_the_set_marks_in_part_only_is_left_out(write):
    mask = blocks((0, 0, 4, 4, 1), (6, 6, 9, 9, 2))
    told = said(write("prostate_gleason_regions", {1: "benign gland", 2: "Gleason pattern 3"}, mask, organ="prostate"))
    assert "gland" not in told
    assert "benign gland" not in told
    assert told["tumour"] == told["Gleason pattern 3"] == ("mask", (2,))


def test_labels_say_what_a_picture_wholly_is_and_what_is_surely_missing(write):
    told = said(write("crc_val_he", label="cancer-associated stroma", organ="colon"))
    assert told["stroma"] == ("whole", None)
    assert told["blood vessel"] == ("absent", None)
    assert "tumour" not in told
    told = said(write("crc_val_he", label="smooth muscle", organ="colon"))
    assert told["gland"] == told["tumour"] == told["malignant gland"] == ("absent", None)
    assert "stroma" not in told
    assert "nucleus" not in told
    unlabelled = said(write("crc_val_he", organ="colon"))
    assert {mode for mode, _ in unlabelled.values()} == {"absent"}
    assert "stroma" not in unlabelled


def test_whole_and_absent_pictures_have_masks_of_their_size(write):
    item = write("crc_val_he", label="cancer-associated stroma")
    for concept, value in (("stroma", True), ("blood vessel", False)):
        drawn, ids = truth(of(item, concept))
        assert (drawn.shape, drawn.dtype, ids) == (SIZE, bool, None)
        assert (drawn == value).all()


def test_a_drawn_class_goes_before_what_the_set_rules_out(write):
    told = said(write("gbm40", {1: "nucleus", 2: "gland"}, blocks((0, 0, 4, 4, 2)), organ="brain"))
    assert told["gland"] == ("mask", (2,)), "a picture that shows it is believed"
    assert told["nucleus"][0] == "mask"
    assert told["stroma"] == ("absent", None)


def test_where_a_term_is_missing_so_is_every_case_of_it(write):
    told = said(write("gbm40", organ="brain"))
    ontology = load_ontology()
    for name, term in ontology.terms.items():
        if "gland" in ontology.lineage(term):
            assert told[name] == ("absent", None), name
    assert "nucleus" not in told
    assert "tumour" not in told


@pytest.mark.parametrize(
    ("organ", "mode"),
    [("kidney", None), ("liver", "absent"), (None, None), ("not stated", None), ("not stated (mixed)", None)],
)
def test_what_is_only_in_one_organ_is_missing_in_pictures_of_others(write, organ, mode):
    assert said(write("mine", organ=organ), "glomerulus") == ({"glomerulus": (mode, None)} if mode else {})


def test_pictures_come_as_rgb_and_are_decoded_once(write, tmp_path):
    item = write("mine", {1: "nucleus"}, blocks((0, 0, 3, 3, 1)))
    grey = tmp_path / "grey.png"
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(grey)
    assert (pixels_of(grey).shape, pixels_of(grey).dtype) == ((3, 4, 3), np.uint8)
    assert pixels_of(item.image) is pixels_of(item.image)
    assert not pixels_of(item.image).flags.writeable


@pytest.mark.parametrize("content", [b"", b"no picture", b"half"])
def test_a_damaged_picture_or_mask_is_told_with_its_file(write, content):
    item = write("mine", {1: "nucleus"}, blocks((0, 0, 3, 3, 1)))
    for path in (item.image, item.mask):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(InputError, match=r"image\.png: cannot be read as a picture; restore it"):
        pixels_of(item.image)
    with pytest.raises(InputError, match=r"mask\.png: cannot be read as a picture; restore it"):
        truth(of(item, "nucleus"))


@given(
    st.dictionaries(st.integers(1, 254), st.sampled_from(sorted(load_ontology().terms)), max_size=6),
    st.sampled_from(["mine", *load_ontology().sets]),
    st.sampled_from([None, "kidney", "colon"]),
)
def test_a_picture_says_at_most_one_thing_of_a_term(classes, kind, organ):
    ontology = load_ontology()
    item = Item(kind, "1", Path("1.png"), "train", organ=organ, classes=classes, mask=Path("mask.png"))
    found = triples([item])
    assert len({t.concept for t in found}) == len(found)
    for triple in found:
        assert triple.concept not in ontology.knowledge(kind).skip
        marked = {v for v, n in classes.items() for t in ontology.of_class(n) if triple.concept in ontology.lineage(t)}
        assert triple.mode == ("mask" if marked else "absent")
        assert set(triple.values or ()) == marked
