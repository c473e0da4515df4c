"""Reading answers: what counts as said, and what wins nothing."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slidekick.rl.parsing import boxes, choice, label, number, open_text, parse, plain, yes_no

KINDS = ("yes_no", "choice", "number", "boxes", "label", "text")
OPTIONS = ("Tumour", "Normal gland", "Necrosis", "Artefact")
LABELS = ("neutrophil", "monocyte", "Gleason pattern 4", "adenomatous colon gland (benign)")
WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=60)


@given(WORDS, st.sampled_from(KINDS))
def test_any_text_is_read_or_none(text, kind):
    parse(kind, text, OPTIONS)


@pytest.mark.parametrize("text", ["Yes", "yes.", "Yes, there is no necrosis", "**Yes**", "Answer: yes", "YES!"])
def test_yes(text):
    assert yes_no(text) == "yes"


@pytest.mark.parametrize("text", ["No", "no nodule is seen", "The answer is no.", "No – not here"])
def test_no(text):
    assert yes_no(text) == "no"


@pytest.mark.parametrize(
    "text", ["", "nodule", "None", "not", "yes or no", "yes no", "Yes. No.", "yes yes yes", "yesterday", "I know"]
)
def test_neither_yes_nor_no(text):
    assert yes_no(text) is None


@given(st.from_regex(r"\A(no|yes)[a-z]{1,9}\Z"))
def test_a_longer_word_is_never_yes_or_no(word):
    assert yes_no(word) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B) Normal gland", "B"), ("normal gland", "B"),
     ("The answer is B.", "B"), ("Option C", "C"), ("A tumour", "A"), ("The cells fuse, so the answer is (D).", "D"),
     ("B. The glands are round.", "B"), ("This is an artefact", "D")],
)  # fmt: skip
def test_a_choice_is_read_by_letter_or_by_words(text, letter):
    assert choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    "text",
    ["", "A or B", "A, B", "A) Tumour B) Normal gland", "A) Necrosis", "E", "E) Tumour", "A lesion", "A nodule is seen",
     "Tumour or necrosis", "tumour tumour", "The answer is A lesion", "answer: A. No, the answer is B."],
)  # fmt: skip
def test_hedging_articles_and_contradictions_choose_nothing(text):
    assert choice(text, OPTIONS) is None


def test_an_article_is_not_choice_a():
    assert choice("A tumour", ("Necrosis", "Tumour")) == "B", "by its words, not by its first letter"
    assert choice("A tumour", ("Necrosis", "Stroma")) is None


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "{})", "({})", "{}.", "Answer: {}"]))
def test_every_letter_is_read_however_it_is_marked(letter, form):
    assert choice(form.format(letter), OPTIONS) == letter


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_two_letters_never_win(first, second):
    assume(first != second)
    for form in ("{} {}", "{}, {}", "{}) {})", "{}. {}.", "{} or {}", "{}/{}"):
        assert choice(form.format(first, second), OPTIONS) is None


@given(st.integers(0, 10**7))
def test_a_number_is_read_as_it_was_written(value):
    for form in ("{}", "There are {} nuclei.", "{:,}", "Answer: {}", "about {}"):
        assert number(form.format(value)) == value


@pytest.mark.parametrize("text", ["No nuclei were found.", "None", "There are no glands", "zero"])
def test_nothing_is_the_number_zero(text):
    assert number(text) == 0


@pytest.mark.parametrize(
    "text",
    ["", "No", "many", "10-20", "-5", "more than 100", "5 or 6", "grade 3", "31%", "4 µm", "none of 7 or 8"],
)
def test_no_number(text):
    assert number(text) is None


SIDES = st.lists(st.integers(0, 999), min_size=2, max_size=2, unique=True).map(sorted)
BOX = st.builds(lambda x, y: (x[0], y[0], x[1], y[1]), SIDES, SIDES)


@given(st.lists(BOX, min_size=1, max_size=5))
def test_boxes_are_read_as_they_were_written(given_boxes):
    assert boxes(str([list(box) for box in given_boxes])) == given_boxes
    assert boxes("\n".join(f'{{"bbox_2d": {list(box)}}}' for box in given_boxes)) == given_boxes


@pytest.mark.parametrize("text", ["[]", "None", "No cells were found.", " [ ] "])
def test_no_boxes(text):
    assert boxes(text) == []


@pytest.mark.parametrize(
    "text",
    ["", "in the upper left", "[1, 2, 3]", "[5, 5, 5, 9]", "[9, 0, 1, 5]", "[0, 0, 1000, 9]", "[-1, 0, 5, 5]",
     "[0.1, 0.2, 0.5, 0.6]", "[1, 2, 3, 4] and [1, 2]"],
)  # fmt: skip
def test_bad_boxes_make_the_answer_unreadable(text):
    assert boxes(text) is None


@pytest.mark.parametrize("text", ["[007, 08, 0100, 09]", "[٧, ٨, ١٠٠, ٩]"])
def test_boxes_are_read_however_their_digits_are_written(text):
    assert boxes(text) == [(7, 8, 100, 9)]


def test_a_side_of_thousands_of_digits_is_no_side():
    assert boxes(f"[1, 2, {'9' * 5000}, 4]") is None


@pytest.mark.parametrize("text", ["neutrophil", " NEUTROPHIL. ", "This is a neutrophil.", "**neutrophil**"])
def test_a_label_is_read_whatever_its_case_and_marks(text):
    assert label(text, LABELS) == "neutrophil"


@pytest.mark.parametrize(
    "text",
    ["", "neutrophil neutrophil", "neutrophil or monocyte", "not a neutrophil", "neutrophils are white cells",
     "Gleason pattern 5", "basophil", "neutrophil, monocyte"],
)  # fmt: skip
def test_repeating_hedging_and_extra_words_are_no_label(text):
    assert label(text, LABELS) is None


@given(st.sampled_from(LABELS), st.sampled_from(LABELS))
def test_only_the_whole_answer_counts_as_a_label(one, other):
    assert label(one, LABELS) == one
    assert label(f"{one} {other}", LABELS) is None


@given(WORDS)
def test_plain_words_stay_as_they_are(text):
    assert plain(plain(text)) == plain(text)
    assert open_text(text) is None or open_text(text) == plain(open_text(text))
