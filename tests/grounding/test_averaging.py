"""What trainings do alike: averages that follow the weights, a rate that falls, checkpoints that are whole."""

import os

import pytest
import torch

from slidekick.data.errors import OutputError
from slidekick.grounding.averaging import (
    LAST_RATE,
    begin_average,
    falling,
    keep_statistics,
    moved,
    read_checkpoint,
    update_average,
    write_checkpoint,
)


def test_the_average_goes_where_the_weights_have_gone():
    model = torch.nn.Linear(2, 2)
    average = moved(begin_average(model), torch.device("meta"))
    update_average(average, model.to("meta"), 0.9, 0)
    assert {tensor.device.type for tensor in average.values()} == {"meta"}


def test_the_average_follows_closely_at_first_and_slowly_then():
    model = torch.nn.Linear(1, 1, bias=False)
    for step, left in ((0, 0.1), (8, 0.5), (10_000, 0.99)):
        torch.nn.init.zeros_(model.weight)
        average = begin_average(model)
        torch.nn.init.ones_(model.weight)
        update_average(average, model, 0.99, step)
        assert float(average["weight"]) == pytest.approx(1 - left)


def test_statistics_are_kept_whatever_passes_through():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).train()
    keep_statistics(model)
    before = model[0].running_mean.clone()
    model(torch.ones(2, 3, 4, 4))
    assert torch.equal(model[0].running_mean, before)
    assert model[1].training, "all else goes on learning"


def test_the_rate_falls_from_all_of_it_to_the_last():
    rates = [falling(part / 10) for part in range(11)]
    assert (rates[0], rates[-1]) == (1.0, pytest.approx(LAST_RATE))
    assert rates == sorted(rates, reverse=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "run" / "checkpoint.pt"
    write_checkpoint(file, {"step": 1, "weights": torch.ones(2)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"checkpoint\.pt: cannot write \(no space left on device\)"):
        write_checkpoint(file, {"step": 2, "weights": torch.zeros(2)})
    state = read_checkpoint(file)
    assert (state["step"], state["weights"].tolist()) == (1, [1.0, 1.0])
    assert os.listdir(file.parent) == ["checkpoint.pt"]
