"""Guesses of the next tokens: what was taught is guessed as far as it is sure, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from slidekick.copilot.compiled.guesses import MOST, OFTEN, Guesses, load_guesses
from slidekick.copilot.mini import GUESSES, WEIGHTS
from slidekick.data.errors import InputError

NOTHING = Guesses()
END = 0
TOKENS = st.lists(st.integers(1, 9), max_size=20)
TURNS = st.lists(TOKENS.map(lambda turn: [*turn, END]), max_size=5)


def test_a_turn_is_guessed_from_its_beginning_as_often_as_it_was_taught():
    turn = [5, 6, 7, 8, END]
    assert Guesses.of_turns([turn], often=1).after([5], NOTHING, (END,)) == [6, 7]  # less sure with each token
    made = Guesses.of_turns([turn, turn], often=1)
    assert made.after([5], NOTHING, (END,)) == [6, 7, 8]
    assert made.after([5], NOTHING, (END,), most=1) == [6]
    assert made.after([5, 6, 7, 8], NOTHING, (END,)) == []  # the end is not guessed
    assert not Guesses.of_turns([turn] * (OFTEN - 1)).followed
    assert Guesses.of_turns([turn] * OFTEN).after([5], NOTHING, (END,)) == [6, 7, 8]


def test_names_are_taken_from_the_prompt_and_not_single_tokens():
    prompt = Guesses.of_prompt([3, 1, 2, 4, 1, 2, 4])
    assert NOTHING.after([1, 2], prompt, (END,)) == [4, 1]
    assert NOTHING.after([4], prompt, (END,)) == []


def test_the_longest_context_tells():
    made = Guesses.of_turns([[1, 2, 3, END]] * 9 + [[9, 9, 2, 4, END]], often=1)
    assert made.after([9, 9, 2], NOTHING, (END,), most=1) == [4]


@given(TURNS, TOKENS, TOKENS, st.integers(0, MOST))
def test_guesses_are_few_known_and_never_the_end(turns, prompt, ids, most):
    told = Guesses.of_turns(turns, often=1).after(ids, Guesses.of_prompt(prompt), (END,), most)
    assert len(told) <= most
    assert END not in told
    assert set(told) <= {token for turn in [*turns, prompt] for token in turn}


@given(turns=TURNS, ids=TOKENS)
def test_a_file_tells_the_same(tmp_path_factory, turns, ids):
    folder, made = tmp_path_factory.mktemp("guesses"), Guesses.of_turns(turns, often=1)
    made.save(folder)
    read = load_guesses(folder)
    assert read.followed == made.followed
    assert read.after(ids, NOTHING, (END,)) == made.after(ids, NOTHING, (END,))


def test_files_that_cannot_be_used_are_one_line_and_none_is_no_guess(tmp_path):
    assert load_guesses(tmp_path).followed == {}
    Guesses.of_turns([[1, 2, 3, END]], often=1).save(tmp_path)
    whole = (tmp_path / GUESSES).read_bytes()
    arrays = load_file(tmp_path / GUESSES)
    for content in (b"", whole[:-3], b"\xff" * 64):
        (tmp_path / GUESSES).write_bytes(content)
        with pytest.raises(InputError, match="remove it"):
            load_guesses(tmp_path)
    for name in arrays:
        save_file(arrays | {name: np.zeros((2, 2, 2), arrays[name].dtype)}, tmp_path / GUESSES)
        with pytest.raises(InputError, match="remove it"):
            load_guesses(tmp_path)


def test_mini_knows_its_usual_words():
    """Of an answer that the tool's result leads to, most is guessed right."""
    guesses = load_guesses(WEIGHTS)
    assert len(guesses.followed) > 1000
    assert all(token >= 0 and 0 < share <= 1 for token, share in guesses.followed.values())
