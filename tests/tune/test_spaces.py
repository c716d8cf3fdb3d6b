"""A search space is checked before anything runs, and its names are those of params.yaml."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import params as parameters
from pipeline.process import InputError
from tune import spaces
from tune.spaces import Sweep

PARAMS = Path(__file__).parents[2] / "params.yaml"


def read(name: str, *sets: str, **options: Any) -> Sweep:  # noqa: ANN401
    """A sweep of the project's params.yaml, in its profile `sample`."""
    raw = parameters.read(PARAMS)
    raw["profile"] = "sample"
    chosen = {"fixed": {}, "method": None, "seeds": None} | options
    return spaces.with_common_rate(spaces.read(raw, name, list(sets), **chosen))


def test_every_sweep_of_the_project_passes_its_own_check_in_every_profile() -> None:
    raw = parameters.read(PARAMS)
    for profile in raw["profiles"]:
        for name in raw["sweeps"]:
            spaces.check(read(name, f"profile={profile}", seeds=2))


def test_the_spaces_hold_the_papers_values() -> None:
    assert read("activation").axes == {"model.activation": ["relu", "tanh", "elu"]}
    assert read("learning_rate").axes == {"train.learning_rate": [0.0005, 0.001, 0.005]}
    (betas,) = read("beta").axes.values()
    assert len(betas) >= 5
    assert min(betas) < 100 < max(betas)
    assert {entry.model for entry in read("models").models.values()} == {
        None, "alexnet", "inception_v2", "resnet50", "densenet121",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("train.learning_rate=0.1,1e-3", [0.1, 0.001]),
        ("model.activation=relu", ["relu"]),
        ("methods.nbp.units=[block1, block2],layer", [["block1", "block2"], "layer"]),
        ("train.augmentation={flip: true},{flip: false}", [{"flip": True}, {"flip": False}]),
    ],
)
def test_values_of_the_command_line_are_yaml(text: str, values: list[object]) -> None:
    assert spaces.values_of(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["train.epochs", "train.epochs=", "=3", "train.epochs=[1"])
def test_a_malformed_set_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        spaces.values_of(text)


def test_one_value_is_fixed_and_several_are_an_axis() -> None:
    sweep = read("width", "model.width=16,32", "train.batch=64")
    assert sweep.axes == {"model.width": [16, 32]}
    assert sweep.fixed == {"train.batch": 64}
    assert spaces.training(sweep, {"model.width": 16, "seed": 3}, 1, "cpu").params.train.batch == 64


def test_a_set_replaces_the_sweeps_own_values() -> None:
    assert read("activation", "model.activation=elu,relu").axes == {"model.activation": ["elu", "relu"]}


def test_names_with_and_without_the_profile_are_the_same_parameter() -> None:
    short, long = (read("x", f"{prefix}train.learning_rate=0.1,0.2", seeds=1) for prefix in ("", "profiles.sample."))
    trainings = [
        [spaces.training(sweep, config, 1, "cpu") for config in spaces.configs(sweep)] for sweep in (short, long)
    ]
    assert trainings[0] == trainings[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.learnig_rate=1,2", "learning_rate"),
        ("sample.rows=100,200", "no parameter of a training"),
        ("profiles.paper.train.batch=16,32", "another profile"),
        ("compute.threads=1,2", "--cpus-per-trial"),
        ("profiles.sample.compute.device=cpu,cuda", "--gpus-per-trial|no parameter"),
        ("model.width=16,17", "multiple of 16"),
        ("methods.bp.share=1,0.5", "no effect"),
        ("train.batch=32,32", "no effect"),
        ("train.epochs=0,1", "epochs"),
        ("profile=sample,nothing", "expected one of sample"),
    ],
)
def test_values_that_make_no_sweep_are_refused_with_their_name(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spaces.check(read("x", text))


def test_unknown_sweeps_methods_and_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="activation"):
        read("activatoin")
    with pytest.raises(InputError, match="expected one of nbp"):
        spaces.check(read("activation", method="nbq"))
    with pytest.raises(InputError, match="--seeds"):
        spaces.check(read("activation", seeds=0))


def test_the_common_learning_rate_is_among_those_a_network_is_tuned_over() -> None:
    sweep = read("models", "train.learning_rate=0.1,0.2")
    assert sweep.axes["train.learning_rate"] == [spaces.common_rate(sweep), 0.1, 0.2]


@pytest.mark.parametrize("name", ["train.learning_rate", "profiles.fer2013-cpu.train.learning_rate"])
def test_a_sweep_over_learning_rates_decides_them_for_a_method_with_one_of_its_own(name: str) -> None:
    sweep = read("rates", "profile=fer2013-cpu", f"{name}=0.1,0.2", method="bp")
    spaces.check(sweep)
    found = [spaces.training(sweep, config, 1, "cpu").params for config in spaces.configs(sweep)]
    assert [params.train.learning_rate for params in found] == [0.1, 0.2]
    assert {params.methods["bp"].learning_rate for params in found} == {None}


def test_networks_are_compared_at_the_recipes_learning_rate_whatever_a_method_has() -> None:
    sweep = read("models", "profile=fer2013-cpu")
    found = [spaces.training(sweep, config, 1, "cpu").params for config in spaces.configs(sweep)]
    assert {how.learning_rate for params in found for how in params.methods.values()} == {None}


def test_another_sweep_leaves_a_method_its_own_learning_rate() -> None:
    sweep = read("activation", "profile=fer2013-cpu", method="bp")
    found = [spaces.training(sweep, config, 1, "cpu").params.methods["bp"] for config in spaces.configs(sweep)]
    assert {how.learning_rate for how in found} == {0.008}


def test_all_networks_are_compared_at_one_batch_one_number_of_epochs_and_one_image() -> None:
    sweep = read("models")
    for config in spaces.configs(sweep):
        what = spaces.training(sweep, config, 1, "cpu")
        base = spaces.resolve(sweep.raw, sweep.fixed)
        assert (what.params.train.batch, what.params.train.epochs) == (base.train.batch, base.train.epochs)
        assert what.params.model.input_size == 64  # the multiple of 32 above the profile's 48
        assert what.method == ("nbp" if config["models"] == "CFPN-NBP" else "bp")


def test_points_have_names_of_their_own_that_a_file_system_takes() -> None:
    sweep = read("x", "train.augmentation={flip: true},{flip: false}", "methods.nbp.units=[block1],[block1, block2]")
    names = [spaces.identifier(config) for config in spaces.configs(sweep)]
    assert len(set(names)) == 4
    assert all(len(name) <= 80 and "/" not in name for name in names)
    assert len(spaces.identifier({"a": "x" * 300, "seed": 0})) == 80


def test_the_specification_changes_with_every_choice_and_with_no_resource() -> None:
    def of(sweep: Sweep) -> dict[str, Any]:
        return spaces.specification(sweep, "grid", 1)

    base = of(read("activation"))
    assert base == of(read("activation"))
    others = [read("activation", "model.activation=relu,elu"), read("activation", seeds=2),
              read("activation", "train.batch=64"), read("activation", method="bp"), read("beta")]  # fmt: skip
    assert all(of(other) != base for other in others)
