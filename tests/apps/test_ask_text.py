from slidekick.apps.ask import as_text
from slidekick.apps.workbench.session import evidence_lines
from slidekick.copilot.answer import Answer


def test_who_answered_is_told_in_words():
    answer = Answer("Which?", "a gland", "a gland", 0.5, gates={"tissue": 0.29, "cells": 0.71})
    assert "experts     cells 71%, tissue 29%" in as_text(answer)
    assert "experts: cells 71%, tissue 29%" in evidence_lines(answer)
    assert "experts" not in as_text(Answer("Which?", "a gland", "a gland", 0.5))
