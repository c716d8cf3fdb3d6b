"""params.yaml: profiles, overrides, refusals with a hint."""

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cfpn.hsic import Cosine, Gaussian
from cfpn.model import CFPN
from cfpn.objectives import CKA, DebiasedCKA, Eq4, NoDependence, NormalisedHSIC, SimilarityMatching
from cfpn.training import Recipe
from pipeline.networks import Baseline
from pipeline.params import Params, assignments, load, merged, override, read
from pipeline.process import InputError

PROJECT = Path(__file__).resolve().parents[2] / "params.yaml"
RAW: dict[str, Any] = {
    "profile": "small",
    "source": "data.csv",
    "compute": {"device": "cpu", "threads": 1},
    "profiles": {
        "small": {
            "model": {"name": "cfpn", "input_size": 48, "width": 32},
            "train": {"epochs": 5, "batch": 8, "augmentation": {"flip": True}},
            "methods": {
                "nbp": {"units": ["block1"], "objective": {"dependence": {"name": "debiased_cka", "beta": 50}}},
                "bp": {"units": "network"},
            },
        },
        "large": {
            "model": {"name": "resnet50"},
            "train": {"epochs": 90, "batch": 128},
            "methods": {"bp": {"units": "network"}},
        },
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, RAW)


def write(folder: Path, raw: dict[str, Any]) -> Path:
    YAML().dump(raw, folder / "params.yaml")
    return folder / "params.yaml"


@pytest.mark.parametrize("profile", ["sample", "fer2013-cpu", "paper"])
def test_every_profile_of_the_project_is_valid(profile: str) -> None:
    params = load(PROJECT, {"profile": profile})
    assert params.profile == profile
    assert {"nbp", "bp"} <= set(params.methods)
    assert params.methods["bp"].units == "network"
    assert params.methods["nbp"].units != "network"


def test_the_paper_profile_is_what_the_paper_states() -> None:
    params = load(PROJECT, {"profile": "paper"})
    assert params.model == CFPN()
    assert (params.train.learning_rate, params.train.batch, params.train.schedule) == (0.005, 128, "constant")
    assert isinstance(params.methods["nbp"].objective.dependence, Eq4)
    assert params.methods["nbp"].objective.dependence.beta == 100


def test_a_profile_is_merged_with_what_holds_for_all(path: Path) -> None:
    params = load(path)
    assert params.model == CFPN(input_size=48, width=32)
    assert (params.train.epochs, params.train.augmentation.flip, params.compute.threads) == (5, True, 1)
    assert params.methods["nbp"].objective.dependence == DebiasedCKA(beta=50.0)
    assert merged(read(path))["source"] == "data.csv"


def test_the_recipe_is_the_training_without_its_file(path: Path) -> None:
    training = load(path).train
    assert type(training.recipe) is Recipe
    assert asdict(training) == asdict(training.recipe) | {"faces": "original", "limit": 0}


def test_a_key_in_both_places_is_refused(tmp_path: Path) -> None:
    twice = deepcopy(RAW) | {"train": {"epochs": 1}}
    with pytest.raises(InputError, match=r"train: stands both for all profiles and in profiles\.small"):
        load(write(tmp_path, twice))


@pytest.mark.parametrize("prefix", ["", "profiles.small."])
def test_an_override_is_taken_with_and_without_the_profile(path: Path, prefix: str) -> None:
    params = load(path, {f"{prefix}train.epochs": 7, f"{prefix}methods.nbp.objective.dependence.beta": 3})
    assert params.train.epochs == 7
    assert params.methods["nbp"].objective.dependence == DebiasedCKA(beta=3.0)


def test_an_override_reaches_what_holds_for_all_profiles_and_what_the_file_leaves_to_defaults(path: Path) -> None:
    params = load(path, {"compute.threads": 4, "train.precision": "bfloat16", "train.augmentation.shift": 2})
    assert (params.compute.threads, params.train.precision, params.train.augmentation.shift) == (4, "bfloat16", 2.0)


@pytest.mark.parametrize("order", [1, -1])
def test_a_profile_chosen_by_override_is_the_one_that_the_others_change(path: Path, order: int) -> None:
    names = {"profile": "large", "train.epochs": 7}
    params = load(path, dict(list(names.items())[::order]))
    assert (params.profile, params.model.name, params.train.epochs) == ("large", "resnet50", 7)


def test_an_override_of_another_profile_changes_nothing(path: Path) -> None:
    assert load(path, {"profiles.large.train.epochs": 7}) == load(path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian.epochs", "did you mean 'train'"),
        ("profil", "did you mean 'profile'"),
        ("modl", "did you mean 'model'"),
        ("train.augmentatoin.flip", "in train; did you mean 'augmentation'"),
        ("train.epoch", r"train\.epoch: no such parameter; did you mean 'epochs'"),
        ("train.augmentation.flp", r"train\.augmentation\.flp: no such parameter; did you mean 'flip'"),
        ("methods.nbp.objective.dependence.betta", "no such parameter; did you mean 'beta'"),
        ("methods.nbp.object.weight", "did you mean 'objective'"),
        ("profiles.smal.train.epochs", "in profiles; did you mean 'small'"),
        ("model.widht", "did you mean 'width'"),
        ("xyzzy", "known: profile, source, compute"),
        ("train.epochs.more", "train.epochs is a value, not a group"),
        ("source.x.y", "no parameter 'x'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(path: Path, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        load(path, {name: 1})


@pytest.mark.parametrize(
    ("place", "key", "hint"),
    [
        ((), "comptue", "comptue: no such parameter in params.yaml; did you mean 'compute'"),
        (("profiles", "small"), "trian", "profiles.small.trian: no such parameter .* did you mean 'train'"),
        (("profiles", "large"), "modle", "profiles.large.modle: .* did you mean 'model'"),
        (("augment",), "sgima", "augment.sgima: .* did you mean 'sigma'"),
        (("ingest",), "dorp", "ingest.dorp: .* did you mean 'drop'"),
        (("run",), "seed", "run.seed: .* did you mean 'seeds'"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(tmp_path: Path, place: tuple[str, ...], key: str, hint: str) -> None:
    wrong = deepcopy(RAW)
    group = wrong
    for part in place:
        group = group.setdefault(part, {})
    group[key] = 1
    with pytest.raises(InputError, match=hint):
        load(write(tmp_path, wrong))


def test_a_misspelt_name_in_the_file_is_refused_too(tmp_path: Path) -> None:
    wrong = deepcopy(RAW)
    wrong["profiles"]["small"]["train"]["epcohs"] = 3
    with pytest.raises(InputError, match=r"params\.yaml: train\.epcohs: no such parameter; did you mean 'epochs'\?"):
        load(write(tmp_path, wrong))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.epochs", "many", r"train\.epochs: .*integer.*found 'many'"),
        ("train.epochs", 2.5, r"train\.epochs: .*found 2\.5"),
        ("train.epochs", 0, "epochs >= 1"),
        ("train.batch", 0, "batch >= 4"),
        ("compute.threads", 0, "threads: expected 1 or more, found 0"),
        ("train.learning_rate", -1, "learning_rate > 0"),
        ("train.schedule", "cosine", r"train\.schedule: .*'constant' or 'one_cycle', found 'cosine'"),
        ("model.width", 20, "multiple of 16, found 20"),
        ("model.activation", "gelu", r"model.*activation: .*'relu', 'tanh' or 'elu', found 'gelu'"),
        ("methods.nbp.units", "blocks", r"methods\.nbp\.units.*found 'blocks'"),
        ("methods.nbp.share", 0, "share: expected more than 0 and at most 1, found 0"),
        ("compute.device", "tpu", r"compute\.device: .*found 'tpu'"),
        ("profile", "medium", "profile: expected one of small, large, found 'medium'"),
        ("methods.nbp.objective.dependence.kernel", {"name": "gaussian", "sigma": -1}, "expected sigma > 0"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_value(path: Path, name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(path, {name: value})


@pytest.mark.parametrize("kind", [Eq4, NormalisedHSIC, CKA, DebiasedCKA, SimilarityMatching, NoDependence])
def test_a_dependence_is_told_by_its_name(path: Path, kind: type) -> None:
    params = load(path, {"methods.nbp.objective.dependence": {"name": kind().name}})
    assert params.methods["nbp"].objective.dependence == kind()


@pytest.mark.parametrize(("name", "kind"), [("gaussian", Gaussian), ("cosine", Cosine)])
def test_a_kernel_is_told_by_its_name(path: Path, name: str, kind: type) -> None:
    params = load(path, {"methods.nbp.objective.dependence.kernel": {"name": name}})
    assert params.methods["nbp"].objective.dependence.kernel == kind()


@pytest.mark.parametrize("name", ["alexnet", "inception_v2", "resnet50", "densenet121"])
def test_a_comparison_network_is_told_by_its_name(path: Path, name: str) -> None:
    assert load(path, {"model": {"name": name, "input_size": 96}}).model == Baseline(name, input_size=96)


def test_a_fault_in_one_member_of_a_union_says_nothing_of_the_others(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(path, {"model.width": "wide"})
    assert "width" in str(caught.value)
    assert "Baseline" not in str(caught.value)
    assert "resnet50" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1\n", "profile: a\n", "profile: [\n", "profile: b\nprofiles: {a: {}}\n"])
def test_a_file_that_is_no_set_of_parameters_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError):
        read(tmp_path / "params.yaml")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml"):
        load(tmp_path / "none.yaml")


def test_overriding_changes_the_mapping_in_place_and_nothing_else() -> None:
    raw = deepcopy(RAW)
    override(raw, "train.epochs", 9)
    expected = deepcopy(RAW)
    expected["profiles"]["small"]["train"]["epochs"] = 9
    assert raw == expected


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


def test_a_limit_smaller_than_a_batch_is_refused_and_a_limit_trains_on_fewer_faces() -> None:
    params = load(PROJECT, {"train.limit": 640})
    assert params.train.limit == 640
    with pytest.raises(InputError, match=r"train\.limit"):
        load(PROJECT, {"train.limit": 3})
