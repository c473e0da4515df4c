"""Training of the mixture on a small mini: what moves, what is written, resuming, adding an expert."""

import json

import pytest
import torch
import yaml

import slidekick.rl.mixture
from slidekick.copilot.experts import load_experts
from slidekick.data.errors import InputError
from slidekick.rl.mixture import MixtureTrainer, load_config, mean_of_rows, train_experts

CONFIG = {
    "experts": {
        "names": ["first", "second", "third"], "rank": 2, "alpha": 4, "top": 2, "hidden": 8,
        "targets": r".*language_model.*\.(q_proj|v_proj|down_proj)",
    },
    "losses": {"balance": 0.02, "z": 0.001},
    "views": 2,
    "instructions": {"count": 12, "seed": 7, "shares": {"report": 0.3, "compare": 0.3}},
    "sft": {
        "num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 1,
        "weight_decay": 0.0, "logging_steps": 1, "save_steps": 2, "save_total_limit": 1, "disable_tqdm": True,
        "seed": 7,
    },
}  # fmt: skip


@pytest.fixture
def run(monkeypatch, make_model, processor, rich, tmp_path):
    """Trains a mixture on the small mini; gives the folder and the model as it was trained."""

    def go(name: str, cut: int | None = None, **more):
        model, done, loss = make_model(), [], MixtureTrainer.compute_loss
        monkeypatch.setattr(slidekick.rl.mixture, "load_mini", lambda folder: (model, processor))

        def counted(self, *args, **kwargs):
            if len(done) == cut:
                raise KeyboardInterrupt
            done.append(1)
            return loss(self, *args, **kwargs)

        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(CONFIG | more.pop("config", {})))
        with monkeypatch.context() as patched:
            patched.setattr(MixtureTrainer, "compute_loss", counted)
            folder = train_experts(path, rich, tmp_path / name, **more)
        return folder, model, len(done)

    return go


def test_experts_and_router_learn_and_all_else_stays(run, make_model, tmp_path):
    folder, model, steps = run("run")
    assert steps == 6
    base = make_model().state_dict()
    for name, tensor in model.state_dict().items():
        plain = name.replace(".base.", ".")
        if plain in base:
            assert torch.equal(tensor, base[plain]), name
    names = {path.name for path in folder.iterdir()}
    assert names == {"first", "second", "third", "router.safetensors", "experts.json"}
    loaded = load_experts(make_model(), folder)
    for name in loaded.plan.names:
        assert any(value.any() for key, value in loaded.expert_state(name).items() if "lora_B" in key), name
    assert loaded.router.score[1].bias.any()
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 7))


def test_a_run_that_was_cut_goes_on_to_the_same_experts(run, make_model):
    whole, _, _ = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", cut=4)
    resumed, _, steps = run("cut", resume=True)
    assert steps == 2
    one, other = (load_experts(make_model(), folder) for folder in (whole, resumed))
    for name in one.plan.names:
        for key, value in one.expert_state(name).items():
            torch.testing.assert_close(value, other.expert_state(name)[key], rtol=1e-2, atol=1e-3)


def test_an_expert_is_added_to_a_trained_mixture(run, make_model):
    first, _, _ = run("run")
    more = CONFIG["experts"] | {"names": ["first", "second", "third", "blood"]}
    folder, _, _ = run("more", config={"experts": more}, add=first)
    before, after = (load_experts(make_model(), f) for f in (first, folder))
    assert after.plan.names[-1] == "blood"
    for name in before.plan.names:
        for key, value in before.expert_state(name).items():
            torch.testing.assert_close(value, after.expert_state(name)[key], rtol=1e-3, atol=1e-4)
    assert any(value.any() for key, value in after.expert_state("blood").items() if "lora_B" in key)
    two = CONFIG["experts"] | {"names": ["first", "blood", "lymph"]}
    with pytest.raises(InputError, match="add one expert at a time"):
        run("none", config={"experts": two}, add=first)


def test_a_trained_mixture_that_lacks_no_expert_learns_on(run, make_model):
    first, _, _ = run("run")
    folder, _, _ = run("more", add=first)
    before, after = (load_experts(make_model(), f) for f in (first, folder))
    for name in before.plan.names:
        old, new = (one.expert_state(name) for one in (before, after))
        assert any(not torch.equal(value, new[key]) for key, value in old.items()), name
        near = sum(float((new[key] - value).norm()) for key, value in old.items())
        assert near < 0.5 * sum(float(value.norm()) for value in old.values()), "it did not begin anew"


def test_means_over_the_pictures_of_each_row():
    values = torch.tensor([[1.0, 1.0], [3.0, 5.0], [7.0, 7.0]])
    means = mean_of_rows(values, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(means, torch.tensor([[2.0, 3.0], [0.0, 0.0], [7.0, 7.0]]))
    assert mean_of_rows(values[:0], torch.tensor([0, 0])).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experts": CONFIG["experts"] | {"ranks": 4}}, "experts has no key 'ranks'; there are names, rank"),
        ({"experts": CONFIG["experts"] | {"rank": "four"}}, "experts.rank is 'four', not a whole number"),
        ({"experts": CONFIG["experts"] | {"names": "first"}}, "experts.names is 'first', not a list of names"),
        ({"experts": CONFIG["experts"] | {"targets": "("}}, "experts.targets is '\\(', not a pattern"),
        ({"experts": {"names": ["first"]}}, "experts.rank is missing"),
        ({"experts": "first"}, "section 'experts' is no mapping"),
        ({"sft": CONFIG["sft"] | {"no_such_key": 1}}, "sft: .*no_such_key"),
    ],
)
def test_settings_that_cannot_be_used_are_told_in_one_line(run, changes, told):
    with pytest.raises(InputError, match=f"config.yaml: {told}") as caught:
        run("run", config=changes)
    assert "\n" not in str(caught.value)


def test_a_configuration_with_an_empty_start_starts_from_mini(run):
    assert run("run", config={"start": None, "sft": CONFIG["sft"] | {"max_steps": 1}})[2] == 1


def test_a_configuration_that_lacks_a_section_is_told(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in CONFIG.items() if key != "losses"}))
    with pytest.raises(InputError, match="section 'losses' is missing"):
        load_config(path)
