"""Rates of callers, also when the clock is set anew."""

import time

from slidekick.apps.serving.guard import Rates


def test_one_too_many_waits_and_a_minute_later_comes_again(monkeypatch):
    rates, now = Rates(2), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert [rates.wait("a"), rates.wait("a")] == [0, 0]
    assert 0 < rates.wait("a") <= 60
    assert rates.wait("b") == 0
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert rates.wait("a") == 0


def test_a_clock_set_back_locks_nobody_out(monkeypatch):
    rates, now = Rates(1), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert rates.wait("a") == 0
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    assert rates.wait("a") == 0
    assert 0 < rates.wait("a") <= 60


def test_without_a_rate_all_come():
    assert [Rates(None).wait("a") for _ in range(100)] == [0] * 100
