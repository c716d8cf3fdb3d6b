"""What a sweep tries: axes of dotted parameters and seeds, from params.yaml and the command line, checked at once."""

import copy
import hashlib
import itertools
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from ray.tune.search.repeater import TRIAL_INDEX
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError

MODELS = "models"  # the axis of networks; every other axis is a dotted name of params.yaml
SEED = "seed"
RATE = "train.learning_rate"
HALVINGS = 2**5
FROM_RESOURCES = ("compute.threads", "compute.device")


@dataclass(frozen=True)
class Entry:
    """A network of the axis `models`: the training method and, unless it is the CFPN itself, a baseline's name."""

    method: str
    model: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A search space with all that its trials have in common.

    raw: params.yaml as it stands; axes: values by dotted name; models: networks of the axis `models` by label;
    fixed: parameters set for every trial; test: score the test split too.
    """

    name: str
    raw: dict[str, Any]
    method: str
    axes: dict[str, list[Any]]
    fixed: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Entry] = field(default_factory=dict)
    seeds: int = 1
    test: bool = False


@dataclass(frozen=True)
class Training:
    """Parameters, name of the method and seed of one trial: all that `pipeline.session` asks for."""

    params: Params
    method: str
    seed: int


def read(
    raw: dict[str, Any], name: str, sets: list[str], fixed: dict[str, Any], method: str | None, seeds: int | None
) -> Sweep:
    """The sweep that params.yaml holds under sweeps.`name`, changed by the command line.

    sets: "dotted=v1,v2": several values are an axis, one is fixed for all trials. A name that params.yaml lacks is a
    sweep of these axes alone. Raises InputError for a name, value or method that is not one.
    """
    known = raw.get("sweeps", {})
    if name not in known and not sets:
        raise InputError(f"no sweep {name!r} in params.yaml (there are {', '.join(known)}) and no --set to make one")
    entry = known.get(name, {})
    _only(entry, ("method", "space", MODELS, "seeds", "test"), f"sweeps.{name}")
    given = {key: list(values) for key, values in entry.get("space", {}).items()} | dict(map(values_of, sets))
    axes = {key: values for key, values in given.items() if len(values) > 1}
    fixed = {key: values[0] for key, values in given.items() if len(values) == 1} | fixed
    models = {label: _entry(f"sweeps.{name}.{MODELS}.{label}", value) for label, value in entry.get(MODELS, {}).items()}
    return Sweep(name, raw, method or entry.get("method", "nbp"), axes, fixed, models,
                 seeds if seeds is not None else entry.get("seeds", 1), entry.get("test", False))  # fmt: skip


def values_of(text: str) -> tuple[str, list[Any]]:
    """Name and values of "dotted=v1,v2"; values are YAML, so that lists and mappings may stand among them."""
    name, equals, values = text.partition("=")
    try:
        result = YAML(typ="safe").load(f"[{values}]")
    except YAMLError as error:
        raise InputError(f"--set {text}: {error}") from error
    if not equals or not name or not result:
        raise InputError(f"--set: expected NAME=VALUE or NAME=VALUE,VALUE, found {text!r}")
    return name, result


def _only(entry: object, keys: tuple[str, ...], where: str) -> None:
    strange = sorted(set(entry) - set(keys)) if isinstance(entry, dict) else [repr(entry)]
    if strange:
        raise InputError(f"{where}: expected a mapping with keys among {', '.join(keys)}, found {strange[0]}")


def _entry(where: str, value: object) -> Entry:
    _only(value, ("method", "model"), where)
    if "method" not in value:
        raise InputError(f"{where}.method: missing")
    return Entry(**value)


def with_common_rate(sweep: Sweep) -> Sweep:
    """Of a sweep over networks: the common learning rate as one of the rates that each network is tuned over."""
    if not sweep.models or RATE not in sweep.axes:
        return sweep
    rates = sorted({common_rate(sweep), *sweep.axes[RATE]})
    return replace(sweep, axes=sweep.axes | {RATE: rates})


def common_rate(sweep: Sweep) -> float:
    """train.learning_rate of params.yaml: the one at which the paper compares all networks."""
    return resolve(sweep.raw, sweep.fixed).train.learning_rate


def space(sweep: Sweep) -> dict[str, list[Any]]:
    """Every axis with its values; seeds come first and change slowest, so that each setting is soon seen once."""
    networks = {MODELS: list(sweep.models)} if sweep.models else {}
    return {SEED: list(range(sweep.seeds))} | networks | sweep.axes


def configs(sweep: Sweep) -> list[dict[str, Any]]:
    """All points of the grid in their order in the tables: setting by setting, seeds within."""
    axes = space(sweep)
    names = [name for name in axes if name != SEED] + [SEED]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axes[name] for name in names))]


def training(sweep: Sweep, config: dict[str, Any], threads: int, device: str) -> Training:
    """What the trial at the point `config` trains; raises InputError for values that make no training.

    A sweep over networks or learning rates decides the rate of every method, also of one with a rate of its own.
    """
    overrides = sweep.fixed | {name: config[name] for name in sweep.axes}
    entry = sweep.models[config[MODELS]] if sweep.models else Entry(sweep.method)
    params = resolve(sweep.raw, overrides | (_network(sweep, overrides, entry) if sweep.models else {}))
    if entry.method not in params.methods:
        raise InputError(f"method: expected one of {', '.join(params.methods)}, found {entry.method!r}")
    changed = {"compute": params.compute.__class__(device=device, threads=threads)}
    if sweep.models or any(name.endswith(RATE) for name in overrides):
        changed["methods"] = {name: replace(how, learning_rate=None) for name, how in params.methods.items()}
    return Training(params.model_copy(update=changed), entry.method, config[SEED])


def _network(sweep: Sweep, overrides: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """The network of an entry, at an image size that all of them take: they halve it five times, AlexNet to 2 and more.

    A comparison at one size is what the paper makes (224); a face of 48x48 is interpolated to 64x64.
    """
    wanted = resolve(sweep.raw, overrides).model.input_size
    size = max(2, -(-wanted // HALVINGS)) * HALVINGS
    return {"model.input_size": size} if entry.model is None else {"model": {"name": entry.model, "input_size": size}}


def resolve(raw: dict[str, Any], overrides: dict[str, Any]) -> Params:
    """Validated parameters of params.yaml's content with overrides; raises InputError naming what is wrong."""
    raw = copy.deepcopy(raw)
    for name in sorted(overrides, key=lambda name: name != "profile"):  # other names stand below the chosen profile
        _trainable(raw, name)
        parameters.override(raw, name, copy.deepcopy(overrides[name]))
        if raw["profile"] not in raw["profiles"]:
            raise InputError(f"profile: expected one of {', '.join(raw['profiles'])}, found {raw['profile']!r}")
    chosen = {key: value for key, value in parameters.merged(raw).items() if key in Params.model_fields}
    try:
        return Params.model_validate(chosen)
    except ValidationError as error:
        raise InputError(parameters.explain(error)) from error


def _trainable(raw: dict[str, Any], name: str) -> None:
    parts = name.split(".")
    if parts[0] == "profiles" and parts[1:2] != [raw["profile"]]:
        raise InputError(f"{name}: is of another profile than the chosen one, {raw['profile']!r}")
    first = parts[2:3] or [""] if parts[0] == "profiles" else parts[:1]
    if first[0] not in Params.model_fields:
        raise InputError(f"{name}: no parameter of a training; expected a name below {', '.join(Params.model_fields)}")
    if ".".join(parts[-2:]) in FROM_RESOURCES:
        raise InputError(f"{name}: follows from the resources of a trial, --cpus-per-trial and --gpus-per-trial")


def check(sweep: Sweep) -> None:
    """Raise InputError where a point of the grid is no training or trains the same as another point."""
    if sweep.seeds < 1:
        raise InputError(f"--seeds: expected 1 or more, found {sweep.seeds}")
    seen: dict[str, dict[str, Any]] = {}
    for config in configs(sweep):
        what = training(sweep, config, 1, "cpu")
        if what.params.train.epochs < 1:
            raise InputError(f"train.epochs: expected 1 or more, found {what.params.train.epochs}")
        key = repr((what.params.model, what.params.train, what.params.methods[what.method], what.seed))
        if key in seen:
            raise InputError(f"{label(seen[key])} and {label(config)} are the same training: a value has no effect")
        seen[key] = config
    names = [identifier(config) for config in seen.values()]
    if len(set(names)) < len(names):
        raise InputError(f"values that differ by more than punctuation are needed to name trials apart: {names}")


def label(config: dict[str, Any]) -> str:
    """A point in words: "activation=relu seed=0"."""
    return " ".join(f"{short(name)}={value}" for name, value in config.items())


def setting(config: dict[str, Any]) -> str:
    """A point without its seed, for titles and keys: "activation=relu", or "default" where nothing varies."""
    return label({name: value for name, value in config.items() if name != SEED}) or "default"


def short(name: str) -> str:
    """The last part of a dotted name."""
    return name.rpartition(".")[2]


def identifier(config: dict[str, Any]) -> str:
    """A point as a name for files and runs, unique within a sweep and at most 80 characters long."""
    text = label(config)
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", text).strip("_")
    return name if len(name) <= 80 else f"{name[:71]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def point(sweep: Sweep, config: dict[str, Any]) -> dict[str, Any]:
    """The axes of what Ray Tune hands to a trial, in their order and the seed last.

    A search that repeats its settings numbers the repetitions instead of choosing a seed.
    """
    seed = config[SEED] if SEED in config else config.get(TRIAL_INDEX, 0)
    return {name: config[name] for name in space(sweep) if name != SEED} | {SEED: seed}


def specification(sweep: Sweep, search: str, samples: int) -> dict[str, Any]:
    """All that decides the results but for data, code and resources, as plain JSON values."""
    base = resolve(sweep.raw, sweep.fixed)
    return {
        "sweep": sweep.name,
        "method": sweep.method,
        "space": space(sweep),
        "fixed": sweep.fixed,
        MODELS: {name: asdict(entry) for name, entry in sweep.models.items()},
        "search": search,
        "samples": samples if search == "optuna" else None,
        "params": base.model_dump(mode="json", exclude={"compute"}),
    }
