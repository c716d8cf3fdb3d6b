"""A search space is checked before anything runs, and its names are those of params.yaml."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import params as parameters
from pipeline.process import InputError
from tune import names, spaces
from tune.spaces import Sweep

PARAMS = Path(__file__).parents[2] / "params.yaml"


def read(name: str, *sets: str, **options: Any) -> Sweep:  # noqa: ANN401
    """A sweep of the project, in its profile `sample`."""
    chosen = {"fixed": {}, "method": None, "seeds": None} | options
    return spaces.with_common_rate(spaces.read(PARAMS, name, list(sets), **chosen))


def test_every_sweep_of_the_project_passes_its_own_check_in_every_profile() -> None:
    for profile in parameters.read_files(PARAMS).profiles:
        for name in parameters.load_sweeps(PARAMS.with_name("sweeps") / "params.yaml"):
            spaces.check(read(name, f"profile={profile}", seeds=2))


def test_the_spaces_hold_the_papers_values() -> None:
    assert read("activation").axes == {"model.activation": ["relu", "tanh", "elu"]}
    assert read("learning_rate").axes == {"train.schedule.learning_rate": [0.0005, 0.001, 0.005]}
    (betas,) = read("beta").axes.values()
    assert len(betas) >= 5
    assert min(betas) < 100 < max(betas)
    assert {entry.model for entry in read("models").models.values()} == {
        None, "alexnet", "inception_v2", "resnet18", "resnet50", "densenet121",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("train.schedule.learning_rate=0.1,1e-3", [0.1, 0.001]),
        ("model.activation=relu", ["relu"]),
        ("methods.nbp.units=[block1, block2],layer", [["block1", "block2"], "layer"]),
        ("train.augmentation={flip: true},{flip: false}", [{"flip": True}, {"flip": False}]),
    ],
)
def test_values_of_the_command_line_are_yaml(text: str, values: list[object]) -> None:
    assert spaces.values_of(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["train.epochs", "train.epochs=", "=3", "train.epochs=[1", "train.epochs=2001-99-99"])
def test_a_malformed_set_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        spaces.values_of(text)


def test_networks_are_told_apart_by_their_rate_alone() -> None:
    with pytest.raises(InputError, match=r"model\.input_size: expected one value; the networks"):
        spaces.check(read("models", "model.input_size=48,64"))
    spaces.check(read("models", "model.input_size=64", "train.schedule.learning_rate=0.01,0.02"))


def test_one_value_is_fixed_and_several_are_an_axis() -> None:
    sweep = read("width", "model.width=16,32", "train.batch=64")
    assert sweep.axes == {"model.width": [16, 32]}
    assert sweep.fixed == {"train.batch": 64}
    assert spaces.training(sweep, {"model.width": 16, "seed": 3}, 1, "cpu").params.train.batch == 64


def test_a_trial_shares_its_units_as_the_parameter_file_says(tmp_path: Path) -> None:
    yaml, folder = YAML(), PARAMS.parent
    for name in ("methods.yaml", "profiles", "sweeps"):
        (tmp_path / name).symlink_to(folder / name)
    raw = yaml.load(PARAMS)
    raw["compute"] |= {"workers": 2, "transport": "gloo"}
    yaml.dump(raw, tmp_path / "params.yaml")
    sweep = spaces.read(tmp_path / "params.yaml", "activation", [], {}, None, 1)
    compute = spaces.training(sweep, {"model.activation": "relu", "seed": 0}, 3, "cpu").params.compute
    assert (compute.workers, compute.transport, compute.threads) == (2, "gloo", 3)


def test_a_set_replaces_the_sweeps_own_values() -> None:
    assert read("activation", "model.activation=elu,relu").axes == {"model.activation": ["elu", "relu"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.schedule.learnig_rate=1,2", "learning_rate"),
        ("sample.rows=100,200", "no parameter of a training"),
        ("compute.threads=1,2", "--cpus-per-trial"),
        ("compute.device=cpu,cuda", "--gpus-per-trial"),
        ("compute.workers=1,2", r"changes no result; set it in .*params\.yaml"),
        ("compute.transport=gloo,nccl", r"changes no result; set it in .*params\.yaml"),
        ("model.width=16,17", "multiple of 16"),
        ("methods.bp.schedule.update_every=1,2", "no effect on method nbp; --method names another"),
        ("train.batch=32,32", "no effect"),
        ("train.batch=32,32", "batch=32 seed=0: a value stands twice"),
        ("methods.bp.vote=true", r"methods\.bp\.vote: no trial has the method 'bp', expected one of nbp"),
        ("methods.bp={vote: true}", r"methods\.bp\.vote: no trial has the method 'bp'"),
        ("train.epochs=0,1", "epochs"),
        ("profile=sample,nothing", "profile: expected one of .*sample, found .nothing"),
    ],
)
def test_values_that_make_no_sweep_are_refused_with_their_name(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spaces.check(read("x", text))


@pytest.mark.parametrize("values", ["fast,0.01", "0.001,null", "[0.001,0.01],0.1", "true,0.1"])
def test_learning_rates_of_networks_that_are_no_numbers_are_refused(values: str) -> None:
    with pytest.raises(InputError, match="learning_rate: expected numbers, found"):
        spaces.with_common_rate(read("models", f"train.schedule.learning_rate={values}"))


def test_what_the_command_line_says_twice_or_in_vain_is_refused() -> None:
    def given(name: str, sets: list[str], fixed: dict[str, Any], method: str | None) -> None:
        spaces.read(PARAMS, name, sets, fixed, method, None)

    for name, sets, fixed, method in (
        ("x", ["train.epochs=3,5"], {"train.epochs": 2}, None),
        ("x", ["model.width=16,32", "model.width=48"], {}, None),
        ("methods", ["method=nbp,bp"], {}, "hsic_only"),
    ):
        with pytest.raises(InputError, match="set twice on the command line"):
            given(name, sets, fixed, method)
    for sets, method in (([], "nbp"), (["method=bp"], None)):
        with pytest.raises(InputError, match="a sweep over networks has that of each network"):
            given("models", sets, {}, method)


@pytest.mark.parametrize(
    ("sets", "fixed"),
    [
        (["train={batch: 32},{batch: 16}"], {"train.epochs": 2}),
        (["train.augmentation={flip: true},{flip: false}", "train.augmentation.shift=1"], {}),
        (["train.augmentation.shift=1", "train.augmentation={flip: true}"], {}),
        (["train.schedule={shape: constant}"], {"train.schedule.learning_rate": 0.1}),
    ],
)
def test_a_group_and_one_of_its_members_are_not_set_together(sets: list[str], fixed: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"train\S* and train\.\S+: both are set, and the first holds the second"):
        read("own", *sets, fixed=fixed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models=AlexNet", r"--set models: sweeps/params\.yaml names the networks"),
        ("seed=1,2", "--set seed: --seeds says how many"),
        ("method=[nbp, bp]", r"method: expected names of methods, found \["),
    ],
)
def test_networks_seeds_and_lists_of_methods_are_no_axes_of_the_command_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read("models" if text.startswith("models") else "own", text)


@pytest.mark.parametrize(
    ("method", "sets"),
    [
        ("paper_eq4", ["train.schedule.shape=constant,one_cycle"]),
        ("bp", ["profile=fer2013-cpu", "train.schedule.warm_up=0.1,0.2", "methods.bp.schedule.warm_up=0.3"]),
    ],
)
def test_a_schedule_that_the_method_has_of_its_own_is_no_axis(method: str, sets: list[str]) -> None:
    with pytest.raises(InputError, match="are the same training"):
        spaces.check(read("own", *sets, method=method))


@pytest.mark.parametrize("group", ["train.schedule={learning_rate: 0.25}", "train={schedule: {learning_rate: 0.25}}"])
def test_a_rate_in_a_group_decides_that_of_a_method_with_one_of_its_own(group: str) -> None:
    sweep = read("own", "profile=fer2013-cpu", "model.width=16,32", group, method="bp")
    what = spaces.training(sweep, {"model.width": 16, "seed": 0}, 1, "cpu")
    assert what.how.schedule.learning_rate == 0.25


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("models", ["methods.nbp.schedule.learning_rate=0.016"]),
        ("models", ["methods.nbp={schedule: {learning_rate: 0.016}}"]),
        ("learning_rate", ["methods.nbp.schedule.learning_rate=0.016"]),
        ("own", ["train.schedule.learning_rate=0.1", "methods.nbp.schedule.learning_rate=0.016", "model.width=16,32"]),
    ],
)
def test_a_rate_of_a_method_that_another_one_replaces_is_refused(name: str, sets: list[str]) -> None:
    with pytest.raises(InputError, match=r"methods\.nbp\.schedule\.learning_rate: this sweep sets .* of all methods"):
        spaces.check(read(name, *sets))


def test_a_rate_of_a_method_that_nothing_replaces_is_that_of_its_trials() -> None:
    sweep = read("activation", "methods.nbp.schedule.learning_rate=0.25")
    spaces.check(sweep)
    found = {spaces.training(sweep, one, 1, "cpu").how.schedule.learning_rate for one in spaces.configs(sweep)}
    assert found == {0.25}


def own_sweep(folder: Path, entry: str) -> Path:
    """A params.yaml beside which sweeps/params.yaml has one sweep, "own"."""
    for name in ("params.yaml", "methods.yaml", "profiles"):
        (folder / name).symlink_to(PARAMS.parent / name)
    (folder / "sweeps").mkdir()
    (folder / "sweeps/params.yaml").write_text(f"own: {entry}\n")
    return folder / "params.yaml"


def test_a_method_of_the_command_line_replaces_those_of_the_sweeps_own_space(tmp_path: Path) -> None:
    path = own_sweep(tmp_path, "{space: {method: [nbp, bp], model.width: [16, 32]}}")
    assert spaces.read(path, "own", [], {}, None, 1).methods == ("nbp", "bp")
    chosen = spaces.read(path, "own", [], {}, "local_ce", 1)
    assert (chosen.method, chosen.methods, list(chosen.axes)) == ("local_ce", (), ["model.width"])


def test_a_method_that_no_trial_has_changes_nothing_of_a_sweep(tmp_path: Path) -> None:
    path = own_sweep(tmp_path, "{method: nbp, space: {model.width: [16, 32]}}")
    (tmp_path / "methods.yaml").unlink()
    text = PARAMS.with_name("methods.yaml").read_text()
    found = []
    for more in ("", "\nanother:\n  units: network\n"):
        (tmp_path / "methods.yaml").write_text(text + more)
        found.append(spaces.specification(spaces.read(path, "own", [], {}, None, 1), "grid", 1))
    assert found[0] == found[1] and found[0]["params"]["methods"].keys() == {"nbp"}


def test_an_option_replaces_the_sweeps_own_axis(tmp_path: Path) -> None:
    path = own_sweep(tmp_path, "{method: nbp, space: {train.epochs: [3, 5]}}")
    sweep = spaces.read(path, "own", [], {"train.epochs": 2}, None, None)
    assert (sweep.axes, sweep.fixed) == ({}, {"train.epochs": 2})


def test_unknown_sweeps_methods_and_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="activation"):
        read("activatoin")
    with pytest.raises(InputError, match="expected one of nbp"):
        spaces.check(read("activation", method="nbq"))
    with pytest.raises(InputError, match="--seeds"):
        spaces.check(read("activation", seeds=0))


def test_the_common_learning_rate_is_among_those_a_network_is_tuned_over() -> None:
    sweep = read("models", "train.schedule.learning_rate=0.1,0.2")
    assert sweep.axes["train.schedule.learning_rate"] == [spaces.common_rate(sweep), 0.1, 0.2]


def test_a_sweep_over_learning_rates_decides_them_for_a_method_with_one_of_its_own() -> None:
    sweep = read("rates", "profile=fer2013-cpu", "train.schedule.learning_rate=0.1,0.2", method="bp")
    spaces.check(sweep)
    found = [spaces.training(sweep, config, 1, "cpu") for config in spaces.configs(sweep)]
    assert [what.how.schedule.learning_rate for what in found] == [0.1, 0.2]
    assert [what.params.train.schedule.learning_rate for what in found] == [0.1, 0.2]


def test_networks_are_compared_at_the_recipes_learning_rate_whatever_a_method_has() -> None:
    sweep = read("models", "profile=fer2013-cpu")
    found = {config["models"]: [] for config in spaces.configs(sweep)}
    for config in spaces.configs(sweep):
        found[config["models"]].append(spaces.training(sweep, config, 1, "cpu").how.schedule.learning_rate)
    assert set(map(tuple, found.values())) == {tuple(sweep.axes["train.schedule.learning_rate"])}


def test_another_sweep_leaves_a_method_its_own_learning_rate() -> None:
    sweep = read("activation", "profile=fer2013-cpu", method="bp")
    found = [spaces.training(sweep, config, 1, "cpu").params.methods["bp"] for config in spaces.configs(sweep)]
    assert {how.schedule.learning_rate for how in found} == {0.008}


def table_of_rates(folder: Path, rates: dict[str, float]) -> Path:
    """A models.csv with the given tuned rates, and a common rate that none of them is."""
    lines = [f"{name},{kind},{rate}" for name, own in rates.items() for kind, rate in (("common", 9), ("tuned", own))]
    (folder / "models.csv").write_text("\n".join(["models,rate,train.schedule.learning_rate", *lines]))
    return folder / "models.csv"


def test_networks_are_trained_at_the_tuned_rates_of_an_earlier_sweep_and_at_no_other(tmp_path: Path) -> None:
    sweep = spaces.read(PARAMS, "models", ["profile=fer2013-cpu"], {}, None, 2)
    rates = {name: 0.001 * place for place, name in enumerate(sweep.models, 1)}
    tuned = spaces.with_rates(sweep, table_of_rates(tmp_path, rates))
    spaces.check(tuned)
    configs = spaces.configs(tuned)
    assert [(config["models"], config["seed"]) for config in configs] == [(name, s) for name in rates for s in (0, 1)]
    for config in configs:
        what = spaces.training(tuned, config, 1, "cpu")
        assert what.how.schedule.learning_rate == rates[config["models"]]
        assert what.params.train.schedule.learning_rate == rates[config["models"]]
    other = spaces.with_rates(sweep, table_of_rates(tmp_path, rates | {"AlexNet": 0.5}))
    assert spaces.specification(tuned, "grid", 1) != spaces.specification(other, "grid", 1)


def test_rates_that_do_not_fit_the_sweep_are_refused(tmp_path: Path) -> None:
    sweep = spaces.read(PARAMS, "models", [], {}, None, 1)
    few = table_of_rates(tmp_path, {name: 0.1 for name in sweep.models if name != "AlexNet"})
    with pytest.raises(InputError, match=r"models\.csv: expected one tuned rate of AlexNet, a number, found none"):
        spaces.with_rates(sweep, few)
    few.write_text(few.read_text() + "\nAlexNet,tuned,fast")
    with pytest.raises(InputError, match="one tuned rate of AlexNet, a number, found none"):
        spaces.with_rates(sweep, few)
    few.write_text(few.read_text() + "\nAlexNet,tuned,0.1\nAlexNet,tuned,0.2")
    with pytest.raises(InputError, match="one tuned rate of AlexNet, a number, found 2"):
        spaces.with_rates(sweep, few)
    with pytest.raises(InputError, match="expected a sweep over networks"):
        spaces.with_rates(read("beta"), few)
    with pytest.raises(InputError, match="not the table of a sweep"):
        spaces.with_rates(sweep, tmp_path / "nowhere.csv")


def test_all_networks_are_compared_at_one_batch_one_number_of_epochs_and_one_image() -> None:
    sweep = read("models")
    for config in spaces.configs(sweep):
        what = spaces.training(sweep, config, 1, "cpu")
        base = spaces.resolve(sweep, sweep.fixed)
        assert (what.params.train.batch, what.params.train.epochs) == (base.train.batch, base.train.epochs)
        assert what.params.model.input_size == 64  # the multiple of 32 above the profile's 48
        own = {"NBP": "nbp", "DS": "deep_supervision"}
        assert what.method == own.get(re.split("[ -]", config["models"])[-1], "bp")


def test_points_have_names_of_their_own_that_a_file_system_takes() -> None:
    sweep = read("x", "train.augmentation={flip: true},{flip: false}", "methods.nbp.units=[block1],[block1, block2]")
    found = [names.identifier(config) for config in spaces.configs(sweep)]
    assert len(set(found)) == 4
    assert all(len(name) <= 80 and "/" not in name for name in found)
    assert len(names.identifier({"a": "x" * 300, "seed": 0})) == 80
    assert names.label({"train.optimizer.name": "sgd", "model.name": "cfpn"}) == "optimizer=sgd model=cfpn"


def test_the_specification_changes_with_every_choice_and_with_no_resource() -> None:
    def of(sweep: Sweep) -> dict[str, Any]:
        return spaces.specification(sweep, "grid", 1)

    base = of(read("activation"))
    assert base == of(read("activation"))
    others = [read("activation", "model.activation=relu,elu"), read("activation", seeds=2),
              read("activation", "train.batch=64"), read("activation", method="bp"), read("beta")]  # fmt: skip
    assert all(of(other) != base for other in others)


def test_networks_of_others_are_cut_between_their_own_blocks() -> None:
    sweep = read("models")
    own = [spaces.training(sweep, config, 1, "cpu") for config in spaces.configs(sweep) if "NBP" in config["models"]]
    cuts = {what.params.model.name: what.how.units for what in own}
    assert cuts["resnet18"] == cuts["resnet50"] == ["stage1", "stage2", "stage3"]
    assert cuts["cfpn"] == ["block1", "block2", "block3"]


def test_a_sweep_over_methods_trains_each_from_the_same_seeds() -> None:
    sweep = read("methods", seeds=2)
    found = [(config["method"], config["seed"]) for config in spaces.configs(sweep)]
    assert found == [(method, seed) for method in sweep.methods for seed in (0, 1)]
    trained = [spaces.training(sweep, config, 1, "cpu") for config in spaces.configs(sweep)]
    assert [(what.method, what.seed) for what in trained] == found
    assert read("x", "method=nbp,bp").methods == ("nbp", "bp")
    assert read("methods", method="bp").methods == ()


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("methods.nbp.local_loss.hsic.beta=1,10.5", ["beta=1", "beta=10.5"]),
        ("methods.nbp.units=[block1],[block1, block2]", ["units=[block1]", "units=[block1, block2]"]),
        ("methods.nbp.vote=true,false", ["vote=true", "vote=false"]),
        ("train.x=null,relu", ["x=null", "x=relu"]),
    ],
)
def test_a_setting_is_called_as_the_command_line_takes_it(text: str, labels: list[str]) -> None:
    name, values = spaces.values_of(text)
    assert [names.setting({name: value, "seed": 0}) for value in values] == labels


def test_two_axes_with_the_same_last_part_keep_their_whole_names() -> None:
    config = {"model.width": 16, "methods.nbp.local_loss.head.width": 8, "train.epochs": 1, "seed": 0}
    assert names.label(config) == "model.width=16 methods.nbp.local_loss.head.width=8 epochs=1 seed=0"


def test_a_run_is_never_called_by_its_seed_alone() -> None:
    assert names.title({"model.width": 64, "seed": 0}, "nbp") == "width=64 seed=0"
    assert names.title({"seed": 0}, "nbp") == "method=nbp seed=0"


def test_the_number_of_a_repetition_is_called_as_ray_calls_it() -> None:
    from ray.tune.search.repeater import TRIAL_INDEX

    assert spaces.REPETITION == TRIAL_INDEX
