"""The parameter files: profiles, whole schedules, overrides that walk the schema, refusals with file, name and hint."""

import importlib.util
import re
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from cfpn.hsic import Cosine, Gaussian, Linear
from cfpn.network import CFPN
from cfpn.objectives import Bottleneck, SimilarityMatching
from cfpn.recipe import Recipe
from cfpn.schedule import Schedule
from cfpn.training import Method
from pipeline.data import audit
from pipeline.networks import Baseline
from pipeline.params import OF_ALL, RULES, Params, Sweep, assignments, load, load_sweeps, read
from pipeline.process import InputError

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "params.yaml"
PROFILES = ("sample", "fer2013-cpu", "paper")
FILES: dict[str, dict[str, Any]] = {
    "params.yaml": {
        "profile": "small",
        "source": "data.csv",
        "run": {"methods": ["nbp"]},
        "compute": {"device": "cpu"},
    },
    "methods.yaml": {
        "nbp": {
            "units": ["block1"],
            "schedule": {"first_unit_stops_at": 0.5},
            "local_loss": {"hsic": {"estimator": "debiased_cka", "beta": 50}},
        },
        "bp": {"units": "network"},
    },
    "profiles/small.yaml": {
        "model": {"name": "cfpn", "input_size": 48, "width": 32},
        "train": {
            "epochs": 5,
            "batch": 8,
            "augmentation": {"flip": True},
            "schedule": {"learning_rate": 0.01, "shape": "one_cycle"},
        },
        "methods": {"bp": {"schedule": {"learning_rate": 0.002}}},
    },
    "profiles/large.yaml": {"model": {"name": "resnet50"}, "train": {"epochs": 90, "batch": 128}},
}
NEW_NAMES = {
    "paper/nbp": "paper/paper_eq4",
    "paper/blocks": "paper/nbp_early",
    "paper/blocks_recompute": "paper/nbp_early_recompute",
    "sample/nbp": "sample/nbp_early",
    "fer2013-cpu/nbp": "fer2013-cpu/nbp_early",
    "fer2013-cpu/local_ce": "fer2013-cpu/local_ce_early",
    "fer2013-cpu/deep_supervision": "fer2013-cpu/deep_supervision_two_layer_heads",
}  # of methods of commit 6abfb10 that are called otherwise today


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, FILES)


def write(folder: Path, files: dict[str, dict[str, Any]]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        YAML().dump(content, folder / name)
    return folder / "params.yaml"


def changed(folder: Path, file: str, name: str, value: object) -> Path:
    """The files of FILES with one value changed."""
    files = deepcopy(FILES)
    *groups, last = name.split(".")
    group = files[file]
    for part in groups:
        group = group.setdefault(part, {})
    group[last] = value
    return write(folder, files)


def golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("test_golden", ROOT / "tests/cfpn/test_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_of_the_twenty_former_methods_resolves_to_the_one_whose_recorded_steps_are_replayed() -> None:
    recorded = golden().RECORDED
    assert len(recorded) == 20
    for old, method in recorded.items():
        profile, name = NEW_NAMES.get(old, old).split("/")
        assert load(PROJECT, {"profile": profile}).methods[name] == method, old


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_averages_and_augments_as_it_did(profile: str) -> None:
    was, found = golden().RECIPES[profile], load(PROJECT, {"profile": profile}).train
    assert (found.average, found.augmentation, found.precision) == (was.average, was.augmentation, was.precision)


@pytest.mark.parametrize("profile", PROFILES)
def test_nbp_means_one_thing_in_every_profile(profile: str) -> None:
    method, schedule = load(PROJECT, {"profile": profile}).methods["nbp"], load(PROJECT).methods["nbp"].schedule
    assert asdict(method) | {"schedule": None} == asdict(load(PROJECT).methods["nbp"]) | {"schedule": None}
    assert method.schedule.first_unit_stops_at == schedule.first_unit_stops_at == 1.0


@pytest.mark.parametrize("name", ["nbp", "local_ce", "deep_supervision"])
def test_heads_of_two_layers_are_all_that_the_method_of_that_name_changes(name: str) -> None:
    methods = load(PROJECT).methods
    three, two = methods[name].local_loss, methods[f"{name}_two_layer_heads"].local_loss
    assert (three.head.hidden, two.head.hidden) == (3, 2)
    assert replace(methods[f"{name}_two_layer_heads"], local_loss=replace(two, head=three.head)) == methods[name]


@pytest.mark.parametrize("heads", ["", "_two_layer_heads"])
def test_deep_supervision_has_the_losses_and_heads_of_nbp_and_lets_gradients_pass(heads: str) -> None:
    methods = load(PROJECT).methods
    assert methods[f"deep_supervision{heads}"] == replace(methods[f"nbp{heads}"], gradients="pass")


@pytest.mark.parametrize("name", ["nbp", "local_ce"])
def test_early_is_the_same_method_whose_units_stop_one_after_the_other(name: str) -> None:
    methods = load(PROJECT).methods
    late, early = asdict(methods[f"{name}_two_layer_heads"]), asdict(methods[f"{name}_early"])
    assert early == late | {"schedule": late["schedule"] | {"first_unit_stops_at": 0.65}}


def test_the_paper_profile_is_what_the_paper_states() -> None:
    params = load(PROJECT, {"profile": "paper"})
    assert params.model == CFPN()
    assert (params.train.schedule, params.train.batch) == (Schedule(0.005, "constant"), 128)
    assert params.methods["paper_eq4"].local_loss.hsic == Bottleneck("eq4", 100.0, Gaussian())


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_has_an_entry_for_every_method_as_dvc_wants_it(profile: str) -> None:
    assert list(read(ROOT / f"profiles/{profile}.yaml")["methods"]) == list(read(ROOT / "methods.yaml"))


def test_params_yaml_holds_every_section_that_is_not_the_profiles_and_is_short() -> None:
    assert set(read(PROJECT)) == set(OF_ALL)
    assert len(PROJECT.read_text().splitlines()) <= 150


def test_the_profile_and_the_common_files_make_one_set_of_parameters(path: Path) -> None:
    params = load(path)
    assert params.model == CFPN(input_size=48, width=32)
    assert (params.train.epochs, params.train.augmentation.flip, params.compute.device) == (5, True, "cpu")
    assert params.methods["nbp"].local_loss.hsic == Bottleneck(beta=50.0)
    assert (params.source, params.bench.rounds, params.augment.sigma) == ("data.csv", 20, 10.0)


def test_a_schedule_is_the_trainings_then_the_methods_then_the_profiles(path: Path) -> None:
    methods = load(path, {"methods.nbp.schedule.warm_up": 0.2}).methods
    assert methods["nbp"].schedule == Schedule(0.01, "one_cycle", warm_up=0.2, first_unit_stops_at=0.5)
    assert methods["bp"].schedule == Schedule(0.002, "one_cycle")
    changed = load(path, {"train.schedule.learning_rate": 0.03}).methods
    assert [changed[name].schedule.learning_rate for name in ("nbp", "bp")] == [0.03, 0.002]


def test_resting_units_of_all_methods_are_those_of_methods_whose_gradients_stop(path: Path) -> None:
    files = FILES | {"methods.yaml": FILES["methods.yaml"] | {"ds": {"gradients": "pass"}}}
    changed = load(write(path.parent, files), {"train.schedule.update_every": 2, "train.schedule.warm_up": 0.3}).methods
    assert [changed[name].schedule.update_every for name in ("nbp", "bp", "ds")] == [2, 2, 1]
    assert [changed[name].schedule.warm_up for name in ("nbp", "bp", "ds")] == [0.3, 0.3, 0.3]
    with pytest.raises(InputError, match=r"methods\.ds\.schedule: expected update_every 1"):
        load(path, {"methods.ds.schedule.update_every": 2})


def test_recomputing_bp_is_bp_with_the_same_numbers_in_every_profile() -> None:
    for profile in PROFILES:
        methods = load(PROJECT, {"profile": profile}).methods
        assert asdict(methods["bp_recompute"]) == asdict(methods["bp"]) | {"recompute": True}, profile


def test_the_recipe_is_the_training_without_schedule_and_faces(path: Path) -> None:
    training = load(path).train
    assert type(training.recipe) is Recipe
    own = {"schedule": asdict(training.schedule), "faces": "original", "limit": 0, "wrong_labels": 0.0}
    assert asdict(training) == asdict(training.recipe) | own


def test_an_override_reaches_what_stands_in_no_file(path: Path) -> None:
    changes = {"compute.threads": 4, "train.precision": "bfloat16", "train.augmentation.shift": 2, "sample.rows": 7}
    params = load(path, changes | {"methods.bp.local_loss.head.width": 64})
    assert (params.compute.threads, params.train.precision, params.train.augmentation.shift) == (4, "bfloat16", 2.0)
    assert (params.sample.rows, params.methods["bp"].local_loss.head.width) == (7, 64)


@pytest.mark.parametrize("order", [1, -1])
def test_a_profile_chosen_by_override_is_the_one_that_the_others_change(path: Path, order: int) -> None:
    names = {"profile": "large", "train.epochs": 7}
    params = load(path, dict(list(names.items())[::order]))
    assert (params.profile, params.model.name, params.train.epochs) == ("large", "resnet50", 7)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian.epochs", "did you mean 'train'"),
        ("profil", "did you mean 'profile'"),
        ("modl", "did you mean 'model'"),
        ("train.augmentatoin.flip", "in train; did you mean 'augmentation'"),
        ("train.epoch", "no parameter 'epoch' in train; did you mean 'epochs'"),
        ("train.schedule.learning_rat", "did you mean 'learning_rate'"),
        ("train.augmentation.flp", "did you mean 'flip'"),
        ("methods.nbp.local_loss.hsic.betta", "did you mean 'beta'"),
        ("methods.nbp.locl_loss.hsic_weight", "did you mean 'local_loss'"),
        ("methods.npb.vote", "in methods; did you mean 'nbp'"),
        ("model.widht", "did you mean 'width'"),
        ("xyzzy", "known: profile, source, run, compute"),
        ("train.epochs.more", "train.epochs is a value, not a group"),
        ("source.x.y", "source is a value, not a group"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(path: Path, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        load(path, {name: 1})


@pytest.mark.parametrize(
    ("file", "name", "hint"),
    [
        ("params.yaml", "comptue", "comptue: no such parameter; did you mean 'compute'"),
        ("params.yaml", "train", "train: no such parameter"),
        ("params.yaml", "augment.sgima", "augment.sgima: .* did you mean 'sigma'"),
        ("params.yaml", "run.seed", "run.seed: .* did you mean 'seeds'"),
        ("profiles/small.yaml", "trian", "trian: .* did you mean 'train'"),
        ("profiles/small.yaml", "train.epcohs", "train.epcohs: .* did you mean 'epochs'"),
        ("profiles/small.yaml", "methods.npb.vote", "methods.npb: .* did you mean 'nbp'"),
        ("profiles/small.yaml", "methods.nbp.schedule.learning_rat", "learning_rat: .* did you mean 'learning_rate'"),
        ("methods.yaml", "nbp.unit", "methods.nbp.unit: .* did you mean 'units'"),
        ("methods.yaml", "nbp.local_loss.hsic.betta", "hsic.betta: no such parameter of debiased_cka; did you mean"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_its_file(tmp_path: Path, file: str, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"{file}: .*{hint}"):
        load(changed(tmp_path, file, name, {"vote": True} if name.endswith("npb.vote") else 1))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.epochs", "many", "train.epochs: expected a whole number, found 'many'"),
        ("train.epochs", 2.5, "train.epochs: expected a whole number, found 2.5"),
        ("train.epochs", 0, "train: expected epochs >= 1 and batch >= 4, found 0 and 8"),
        ("train.average", 1, "train.average: expected 0 or more and less than 1, found 1.0"),
        ("train.limit", 3, "train.limit: expected 0 or at least a batch of 8, found 3"),
        ("train.label_smoothing", 1, "train.label_smoothing: expected 0 or more and less than 1, found 1.0"),
        ("train.augmentation.erasing", 2, "train.augmentation.erasing: expected 1 or less, found 2.0"),
        ("train.optimizer.name", "lion", "train.optimizer.name: expected adam or sgd, found 'lion'"),
        ("train.optimizer.weight_decay", -1, "train.optimizer.weight_decay: expected 0 or more, found -1.0"),
        ("train.optimizer", "sgd", "train.optimizer: expected a group of parameters (name, weight_decay), found 'sgd'"),
        ("train.wrong_labels", 1, "train.wrong_labels: expected 0 or more and less than 1, found 1.0"),
        ("train.wrong_labels", -0.1, "train.wrong_labels: expected 0 or more and less than 1, found -0.1"),
        ("train.schedule.learning_rate", -1, "train.schedule.learning_rate: expected more than 0, found -1.0"),
        ("train.schedule.shape", "cosine", "train.schedule.shape: expected constant or one_cycle, found 'cosine'"),
        ("train.schedule", 5, "train.schedule: expected a group of parameters (learning_rate, shape, warm_up, "
                              "update_every, first_unit_stops_at), found 5"),
        ("model.width", 20, "model.width: expected a positive multiple of 16, found 20"),
        ("model.width", "wide", "model.width: expected a whole number, found 'wide'"),
        ("model.activation", "gelu", "model.activation: expected relu, tanh or elu, found 'gelu'"),
        ("methods.nbp.units", "blocks", "methods.nbp.units: expected network, block, layer, balanced:2, balanced:3, "
                                  "balanced:4, balanced:6 or balanced:8, found 'blocks'"),
        ("methods.nbp.schedule.update_every", 0, "methods.nbp.schedule.update_every: expected 1 or more, found 0"),
        ("methods.nbp.vote", "maybe", "methods.nbp.vote: expected true or false, found 'maybe'"),
        ("compute.threads", 0, "compute.threads: expected 1 or more, found 0"),
        ("compute.threads", 100_000, "compute.threads: expected 512 or less, found 100000"),
        ("compute.device", "tpu", "compute.device: expected auto, cpu or cuda, found 'tpu'"),
        ("run.seeds", [-1], "run.seeds.0: expected 0 or more, found -1"),
        ("run.seeds", [0, 2**32], "run.seeds.1: expected less than 4294967296, found 4294967296"),
        ("run.seeds", [], "run.seeds: expected at least 1 value, found []"),
        ("bench.rounds", 1, "bench.rounds: expected 2 or more, found 1"),
        ("ingest.drop", "all", f"ingest.drop: expected none, or some of {', '.join(RULES)} by commas, found 'all'"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name_expectation_and_value(
    path: Path, name: str, value: object, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(path, {name: value})
    assert str(caught.value).rpartition(".yaml: ")[2] == message


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("params.yaml", "compute.threads"),
        ("profiles/small.yaml", "train.schedule.warm_up"),
        ("profiles/small.yaml", "methods.nbp.schedule.warm_up"),
        ("methods.yaml", "nbp.schedule.warm_up"),
        ("methods.yaml", "nbp.local_loss.hsic.beta"),
    ],
)
def test_a_bad_value_is_refused_with_the_file_it_stands_in(tmp_path: Path, file: str, name: str) -> None:
    with pytest.raises(InputError) as caught:
        load(changed(tmp_path, file, name, "much"))
    place = f"methods.{name}" if file == "methods.yaml" else name
    number = "whole number" if "threads" in name else "number"
    assert str(caught.value) == f"{tmp_path / file}: {place}: expected a {number}, found 'much'"


@pytest.mark.parametrize("name", ["npb", "x"])
def test_a_run_of_a_method_that_is_none_is_refused(path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"run\.methods: expected names of .*methods\.yaml, found '{name}'"):
        load(path, {"run.methods": [name]})


def test_an_unknown_profile_is_refused_with_those_there_are(path: Path) -> None:
    with pytest.raises(InputError, match=r"profile: expected one of large, small, found 'smal'; did you mean 'small'"):
        load(path, {"profile": "smal"})


@pytest.mark.parametrize("estimator", ["eq4", "normalised_hsic", "cka", "debiased_cka"])
def test_an_estimator_keeps_the_beta_beside_it(path: Path, estimator: str) -> None:
    params = load(path, {"methods.nbp.local_loss.hsic.estimator": estimator})
    assert params.methods["nbp"].local_loss.hsic == Bottleneck(estimator, 50.0)


def test_similarity_matching_is_told_by_its_name_and_has_no_beta(path: Path) -> None:
    params = load(path, {"methods.nbp.local_loss.hsic": {"estimator": "similarity_matching"}})
    assert params.methods["nbp"].local_loss.hsic == SimilarityMatching()
    with pytest.raises(InputError, match=r"hsic\.beta: no such parameter of similarity_matching"):
        load(path, {"methods.nbp.local_loss.hsic.estimator": "similarity_matching"})


@pytest.mark.parametrize(("name", "kind"), [("gaussian", Gaussian), ("cosine", Cosine), ("linear", Linear)])
def test_a_kernel_is_told_by_its_name(path: Path, name: str, kind: type) -> None:
    params = load(path, {"methods.nbp.local_loss.hsic.kernel": {"name": name}})
    assert params.methods["nbp"].local_loss.hsic.kernel == kind()


@pytest.mark.parametrize("name", ["alexnet", "inception_v2", "resnet18", "resnet50", "densenet121"])
def test_a_comparison_network_is_told_by_its_name(path: Path, name: str) -> None:
    assert load(path, {"model": {"name": name, "input_size": 96}}).model == Baseline(name, input_size=96)


def test_a_parameter_of_another_network_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"small\.yaml: model\.width: no such parameter of alexnet; known: name"):
        load(path, {"model.name": "alexnet"})


@pytest.mark.parametrize("changes", [{"model.width": "wide"}, {"methods.nbp.local_loss.hsic.beta": "x"}])
def test_no_message_has_a_class_or_a_dump(path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        load(path, changes)
    assert not {"Baseline", "CFPN", "Bottleneck", "pydantic", "errors.", "\n"} & set(str(caught.value).split(" "))


@pytest.mark.parametrize("text", ["", "- 1\n", "profile: [\n"])
def test_a_file_that_is_no_set_of_parameters_is_refused_by_name(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        load(path)


@pytest.mark.parametrize("section", ["model", "train"])
def test_a_section_that_is_left_out_is_missed_by_name(path: Path, section: str) -> None:
    profile = path.parent / "profiles/small.yaml"
    left = {name: group for name, group in read(profile).items() if name != section}
    YAML(typ="safe").dump(left, profile)
    with pytest.raises(InputError, match=rf"small\.yaml: {section}: missing$"):
        load(path)


@pytest.mark.parametrize("value", [[], {}, ["small"]])
@pytest.mark.parametrize("name", ["profile", "methods.nbp.local_loss.hsic.estimator", "model.name"])
def test_a_list_or_a_group_in_place_of_a_name_is_refused(path: Path, name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"{name}: expected .*, found {re.escape(str(value))}"):
        load(path, {name: value})


@pytest.mark.parametrize("name", ["params.yaml", "methods.yaml"])
def test_a_missing_file_is_refused_by_name(path: Path, name: str) -> None:
    path.with_name(name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        load(path)


def test_assignments_are_read_as_yaml() -> None:
    found = assignments(["train.epochs=3", "a.b=[x, y]", "c=true", "d=1e-3", "e=f=g", "h="])
    assert found == {"train.epochs": 3, "a.b": ["x", "y"], "c": True, "d": 0.001, "e": "f=g", "h": None}


def test_an_assignment_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected NAME=VALUE, found 'train\.epochs'"):
        assignments(["train.epochs"])


def test_parameters_cannot_be_changed_afterwards(path: Path) -> None:
    params = load(path)
    with pytest.raises(ValueError, match="frozen"):
        params.profile = "large"
    assert isinstance(params, Params)
    assert isinstance(params.methods["bp"], Method)


def test_every_value_that_a_sweep_of_the_project_tries_is_a_parameter() -> None:
    for sweep in load_sweeps(ROOT / "sweeps/params.yaml").values():
        assert isinstance(sweep, Sweep)
        for name, values in sweep.space.items():
            for value in values:
                assert sweep.method in load(PROJECT, {name: value}).methods
        assert {entry.method for entry in sweep.models.values()} <= set(load(PROJECT).methods)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"beta": {"methd": "nbp"}}, "beta.methd: no such parameter; did you mean 'method'"),
        ({"beta": {"space": {"train.epochs": 3}}}, "beta.space.train.epochs: expected a list, found 3"),
        ({"beta": {"models": {"A": {"model": "alexnet"}}}}, "beta.models.A.method: missing"),
        ({"beta": {"seeds": 0}}, "beta.seeds: expected 1 or more, found 0"),
    ],
)
def test_a_sweep_that_is_none_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_sweeps(write(tmp_path, {"params.yaml": content}))


@pytest.mark.parametrize("value", ["\x1f", "[", "2001-99-99", "[" * 5000])
def test_an_override_that_is_no_yaml_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(InputError, match=r"^train\.epochs: no YAML: [^\n]+$"):
        assignments([f"train.epochs={value}"])


def test_a_parameter_file_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"profile: \xff\n")
    with pytest.raises(InputError, match=r"params\.yaml: no YAML: [^\n]+$"):
        read(tmp_path / "params.yaml")


def test_the_rules_that_drop_faces_are_those_of_the_audit() -> None:
    assert set(RULES) == set(audit.RULES)
    for rules in ("none", "copies", ",".join(RULES)):
        assert load(ROOT / "params.yaml", {"ingest.drop": rules}).ingest.drop == rules
