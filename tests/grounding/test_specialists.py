"""Specialists of other packages: held to their contract, and asked for their own concepts alone."""

import sys

import numpy as np
import pytest

from slidekick.data.errors import InputError, PluginError
from slidekick.grounding.finding import Finding
from slidekick.grounding.specialists import Team, extended, gather_specialists, installed_specialists, with_specialists
from slidekick.grounding.vocabulary import Concept, Vocabulary

MARKS = """
    import numpy as np
    from slidekick.data import InputError
    from slidekick.grounding import Concept, Finding

    class Marks:
        concepts = (
            Concept("ink", "region", ("pen",), (0.5, 2.0), 1.0),
            Concept("dot", "object", ("speck",), (0.5, 2.0), 1.0),
        )
        asked = []

        def segment(self, image, concepts, *, mpp):
            self.asked.append((list(concepts), mpp))
            mask = image[..., 0] < 50
            labels = np.where(mask, 1, 0).astype(np.int32)
            return [Finding(one, mask, 0.8, 0.9, labels if one == "dot" else None) for one in concepts]

    marks = Marks()
"""


class Base:
    """Knows nuclei; keeps what it was asked."""

    vocabulary = Vocabulary([Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0)])

    def __init__(self) -> None:
        self.asked = []

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        self.asked.append((list(concepts), points, boxes))
        empty = np.zeros(image.shape[:2], bool)
        known = [self.vocabulary.find(words) for words in concepts]
        return [
            Finding(one.name if one else words, empty, 0.0, 0.1, known=one is not None, prompt=words)
            for words, one in zip(concepts, known, strict=True)
        ]


@pytest.fixture
def image():
    pixels = np.full((20, 30, 3), 200, np.uint8)
    pixels[:5, :10] = 10
    return pixels


@pytest.fixture
def team(install):
    install("mark-finders", MARKS, specialists={"marks": "marks"})
    return with_specialists(Base())


def test_without_any_the_segmentor_stays_what_it_is():
    base = Base()
    assert with_specialists(base) is base


def test_each_finds_its_own_concepts_in_the_order_of_the_words(team, image):
    findings = team.segment(image, ["pen", "nuclei", "dots", "unicorn", "ink"], mpp=(0.5, 0.5))
    assert [(one.concept, one.prompt, one.known) for one in findings] == [
        ("ink", "pen", True),
        ("nucleus", "nuclei", True),
        ("dot", "dots", True),
        ("unicorn", "unicorn", False),
        ("ink", "ink", True),
    ]
    assert findings[0].mask.sum() == 50
    assert findings[2].instances.max() == 1
    assert team.base.asked == [(["nuclei", "unicorn"], None, None)]
    (marks,) = installed_specialists()
    assert marks.made.asked[-1] == (["ink", "dot"], (0.5, 0.5))
    assert team.packages == {"mark-finders": "0.1.0"}


def test_what_is_no_specialists_goes_to_the_segmentor_as_it_was_asked(team, image):
    team.segment(image, ["nucleus"], points=[(1, 1, 1)], boxes=[(0, 0, 9, 9)])
    team.segment(image, [], boxes=[(0, 0, 9, 9)])
    assert team.base.asked == [(["nucleus"], [(1, 1, 1)], [(0, 0, 9, 9)]), ([], None, [(0, 0, 9, 9)])]


@pytest.mark.parametrize("clicks", [{"points": [(1, 1, 1)]}, {"boxes": [(0, 0, 9, 9)]}])
def test_clicks_and_boxes_are_not_a_specialists(team, image, clicks):
    with pytest.raises(InputError, match="ink is found by mark-finders, by words alone"):
        team.segment(image, ["nucleus", "ink"], **clicks)


def test_a_picture_that_is_none_reaches_no_specialist(team, image):
    with pytest.raises(InputError, match="uint8"):
        team.segment(image.astype(float), ["ink"])


def test_the_vocabulary_knows_their_words_beside_its_own(team):
    assert team.vocabulary.find("Pens") is None  # a synonym's plural is not declared
    assert {words: team.vocabulary.find(words).name for words in ("Pen", "inks", "speck", "nuclei")} == {
        "Pen": "ink", "inks": "ink", "speck": "dot", "nuclei": "nucleus",
    }  # fmt: skip
    assert list(Base.vocabulary.concepts) == ["nucleus"]


def marks_that(gives: str) -> str:
    start = MARKS.partition("            return ")[0]
    return f"{start}            return {gives}\n\n    marks = Marks()\n"


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ("1 / 0", "ink could not be looked for (ZeroDivisionError: division by zero)"),
        ("[]", "gave 0 findings for 1 concepts"),
        ("[mask]", "gave 'ndarray' for ink"),
        ("[Finding('pen', mask, 1, 1)]", "gave 'pen' for ink"),
        ("[Finding('ink', labels, 1, 1)]", "mask of ink is no bool array (20, 30)"),
        ("[Finding('ink', mask[1:], 1, 1)]", "mask of ink is no bool array (20, 30)"),
        ("[Finding('ink', mask, 1, 1.2)]", "score or presence of ink"),
        ("[Finding('ink', mask, None, 1)]", "score or presence of ink"),
        ("[Finding('ink', mask, 1, 1, labels)]", "ink is a region and was given instances"),
        ("image.sort()", "read-only"),
    ],
)
def test_what_is_no_finding_is_one_error_that_names_the_package(install, image, gives, says):
    install("mark-finders", marks_that(gives), specialists={"marks": "marks"})
    with pytest.raises(PluginError) as raised:
        with_specialists(Base()).segment(image, ["ink"])
    assert says in str(raised.value)
    assert str(raised.value).startswith("mark-finders: ")
    assert str(raised.value).endswith("; mend it, or `pip uninstall mark-finders`")


@pytest.mark.parametrize("labels", ["None", "labels[1:]", "labels * 0", "labels.astype(float)"])
def test_objects_need_instances_on_their_mask(install, image, labels):
    install("mark-finders", marks_that(f"[Finding('dot', mask, 1, 1, {labels})]"), specialists={"marks": "marks"})
    with pytest.raises(PluginError, match="instances of dot"):
        with_specialists(Base()).segment(image, ["dot"])


def test_what_a_specialist_says_of_the_picture_keeps_its_words(install, image):
    code = MARKS.replace("mask = image", "raise InputError('needs a scale; give --mpp')\n            mask = image")
    install("mark-finders", code, specialists={"marks": "marks"})
    with pytest.raises(InputError, match=r"^needs a scale; give --mpp$"):
        with_specialists(Base()).segment(image, ["ink"])


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ("import no_such_module", "cannot be loaded (ModuleNotFoundError"),
        ("marks = Concept", "must name an object"),
        ("marks = type('M', (), {'concepts': ()})()", "must name an object"),
        ("marks = Marks()", "no tuple of Concept"),
        ("marks = Marks('ink')", "'ink' is no slidekick.grounding.Concept"),
        ("marks = Marks(Concept('ink', 'region', 'pen', (1, 1), 1))", "synonyms of 'ink' are no tuple"),
        ("marks = Marks(Concept('ink', 'area', (), (1, 1), 1))", "kind 'area'; give object or region"),
        ("marks = Marks(Concept('<ink>', 'region', (), (1, 1), 1))", "'<ink>' is no name"),
        ("marks = Marks(Concept('ink', 'region', ('p' * 60,), (1, 1), 1))", "is no name"),
        ("marks = Marks(Concept('ink', 'region', (), (2, 1), 1))", "needs a scale"),
        ("marks = Marks(Concept('ink', 'region', (), 0.5, 1))", "needs a scale"),
        ("marks = Marks(Concept('ink', 'region', (), (1, 1), 0))", "a zoom, all above 0"),
    ],
)
def test_what_is_no_specialist_is_one_error_that_names_package_and_mend(install, marks, says):
    code = f"""
    from slidekick.grounding import Concept

    class Marks:
        def __init__(self, *concepts):
            self.concepts = concepts

        def segment(self, image, concepts, *, mpp): ...

    {marks}
    """
    install("odd-finders", code, specialists={"marks": "marks"})
    with pytest.raises(PluginError) as raised:
        with_specialists(Base())
    assert says in str(raised.value)
    assert str(raised.value).startswith("odd-finders: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("Concept('nucleus', 'object', (), (1, 1), 1)", "'nucleus', which is nucleus of Slidekick's segmentor"),
        ("Concept('paint', 'region', ('Nuclei',), (1, 1), 1)", "'Nuclei', which is nucleus of Slidekick's segmentor"),
        ("Concept('ink', 'region', (), (1, 1), 1)", "'ink', which is ink of mark-finders"),
        ("Concept('stain', 'region', ('pen',), (1, 1), 1)", "'pen', which is ink of mark-finders"),
    ],
)
def test_a_word_that_means_something_is_never_taken_over(install, declared, said):
    install("mark-finders", MARKS, specialists={"marks": "marks"})
    code = MARKS.replace("concepts = (", f"concepts = ({declared},)\n        former = (")
    install("more-finders", code, specialists={"more": "marks"})
    with pytest.raises(PluginError) as raised:
        with_specialists(Base())
    assert said in str(raised.value)
    assert str(raised.value).startswith("more-finders: its concept ")


def test_one_that_cannot_be_used_hides_no_other_from_the_doctor(install):
    install("mark-finders", MARKS, specialists={"marks": "marks"})
    install("odd-finders", "", specialists={"odd": "marks"})
    kept, errors = gather_specialists()
    assert list(kept) == ["marks"]
    assert len(errors) == 1


def test_a_vocabulary_without_meanings_is_extended_too(install):
    install("mark-finders", MARKS, specialists={"marks": "marks"})
    vocabulary = extended(Vocabulary([]), installed_specialists())
    assert vocabulary.find("pen").name == "ink"
    assert isinstance(Team(Base(), installed_specialists()).vocabulary, Vocabulary)


def test_nothing_is_loaded_before_it_is_needed(install):
    install("mark-finders", "raise RuntimeError('too early')", specialists={"marks": "marks"})
    Base()
    assert "mark_finders" not in sys.modules
