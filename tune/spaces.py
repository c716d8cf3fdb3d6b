"""What a sweep tries: axes of parameters, methods, networks and seeds, from sweeps/params.yaml and the command line."""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cfpn.training import Method
from pipeline import params as parameters
from pipeline.page.files import read_table
from pipeline.params import OF_PROFILE, Compute, Entry, Files, Params
from pipeline.process import InputError
from tune import names
from tune.names import METHOD, MODELS, RATE, SEED, Config

HALVINGS = 2**5
FROM_RESOURCES = ("compute.threads", "compute.device")
Device = Literal["auto", "cpu", "cuda"]
TRAINABLE = ("profile", *OF_PROFILE)  # first parts of the names that a sweep may vary
REPETITION = "__trial_index__"  # what Ray's Repeater calls the number of a repetition


@dataclass(frozen=True)
class Sweep:
    """A search space with all that its trials have in common.

    files: the parameter files; method: of all trials, unless methods or networks vary; axes: values by dotted name;
    methods: values of the axis `method`; models: networks of the axis `models` by label; rates: the learning rate of
    each network where an earlier sweep chose it; fixed: parameters set for every trial; test: score the test split too.
    """

    name: str
    files: Files
    method: str
    axes: dict[str, list[Any]]
    fixed: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    models: dict[str, Entry] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    test: bool = False


@dataclass(frozen=True)
class Training:
    """Parameters, name of the method and seed of one trial: all that `pipeline.runs.session` asks for."""

    params: Params
    method: str
    seed: int

    @property
    def how(self) -> Method:
        """The method itself."""
        return self.params.methods[self.method]


def read(path: Path, name: str, sets: list[str], fixed: dict[str, Any], method: str | None, seeds: int | None) -> Sweep:
    """The sweep that sweeps/params.yaml beside `path` holds under `name`, changed by the command line.

    sets: "dotted=v1,v2": several values are an axis, one is fixed for all trials; "method=nbp,bp" is an axis too. An
    unknown name is a sweep of these axes alone. Raises InputError for a name, value or method that is not one.
    """
    files = parameters.read_files(path)
    known = parameters.load_sweeps(path.parent / "sweeps" / "params.yaml")
    if name not in known and not sets:
        raise InputError(f"no sweep {name!r} in sweeps/params.yaml (there are {', '.join(known)}) and no --set to make "
                         "one")  # fmt: skip
    entry = known.get(name, parameters.Sweep())
    own = list(map(values_of, sets))
    check_given([key for key, _ in own], fixed, method, bool(entry.models))
    given = {key: list(values) for key, values in entry.space.items()} | dict(own)
    given = {key: values for key, values in given.items() if key not in fixed}
    check_apart([*given, *fixed])
    own_methods = given.pop(METHOD, entry.methods)
    methods = [method] if method else own_methods
    if odd := [value for value in methods if not isinstance(value, str)]:
        raise InputError(f"method: expected names of methods, found {odd[0]!r}")
    return Sweep(
        name=name,
        files=files,
        method=methods[0] if methods else entry.method,
        axes={key: values for key, values in given.items() if len(values) > 1},
        fixed={key: values[0] for key, values in given.items() if len(values) == 1} | fixed,
        methods=tuple(methods) if len(methods) > 1 else (),
        models=entry.models,
        seeds=seeds if seeds is not None else entry.seeds,
        test=entry.test,
    )


def check_given(names_set: list[str], fixed: Mapping[str, Any], method: str | None, networks: bool) -> None:
    """Raise InputError where the command line says one thing twice, or says what the sweep does not take.

    names_set: of --set. fixed: what other options set. networks: whether the sweep is one over networks.
    """
    twice = [name for name in names_set if names_set.count(name) > 1 or name in fixed]
    if twice or (method and METHOD in names_set):
        raise InputError(f"{(twice or [METHOD])[0]}: set twice on the command line; expected it once")
    if networks and (method or METHOD in names_set):
        raise InputError("method: a sweep over networks has that of each network, in sweeps/params.yaml")
    for name, where in ((MODELS, "sweeps/params.yaml names the networks"), (SEED, "--seeds says how many")):
        if name in names_set:
            raise InputError(f"--set {name}: {where}")


def check_apart(dotted: Collection[str]) -> None:
    """Raise InputError where one dotted name is a group that holds another: one value would replace the other."""
    for group, name in itertools.permutations(dotted, 2):
        if name.startswith(f"{group}."):
            raise InputError(f"{group} and {name}: both are set, and the first holds the second; expected one of them")


def values_of(text: str) -> tuple[str, list[Any]]:
    """Name and values of "dotted=v1,v2"; values are YAML, so that null, lists and mappings may stand among them."""
    name, equals, values = text.partition("=")
    result = parameters.yaml(f"[{values}]", f"--set {text}")
    if not equals or not name or not result:
        raise InputError(f"--set: expected NAME=VALUE or NAME=VALUE,VALUE, found {text!r}")
    return name, result


def with_common_rate(sweep: Sweep) -> Sweep:
    """Of a sweep over networks: the common learning rate as one of the rates that each network is tuned over."""
    if not sweep.models or RATE not in sweep.axes:
        return sweep
    for value in sweep.axes[RATE]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{RATE}: expected numbers, found {value!r}")
    rates = sorted({common_rate(sweep), *sweep.axes[RATE]})
    return replace(sweep, axes=sweep.axes | {RATE: rates})


def with_rates(sweep: Sweep, table: Path) -> Sweep:
    """A sweep over networks, each at its tuned rate of `table`, the models.csv of an earlier sweep, and at no other.

    Raises InputError where the sweep has no networks, and where the table has not one tuned rate of each.
    """
    if not sweep.models:
        raise InputError(f"--rates: expected a sweep over networks, found {sweep.name!r}")
    rows = read_table(table, [MODELS, "rate", RATE])
    rates = pd.to_numeric(rows[RATE], errors="coerce").where(rows["rate"] == "tuned")
    tuned = rates.set_axis(rows[MODELS]).dropna()
    for name in sweep.models:
        if (count := (tuned.index == name).sum()) != 1:
            raise InputError(f"{table}: expected one tuned rate of {name}, a number, found {count or 'none'}")
    axes = {name: values for name, values in sweep.axes.items() if name != RATE}
    return replace(sweep, axes=axes, rates={name: float(tuned[name]) for name in sweep.models})


def common_rate(sweep: Sweep) -> float:
    """The profile's own learning rate: the one at which the paper compares all networks."""
    return resolve(sweep, sweep.fixed).train.schedule.learning_rate


def space(sweep: Sweep) -> dict[str, list[Any]]:
    """Every axis with its values; seeds come first and change slowest, so that each setting is soon seen once."""
    networks = {MODELS: list(sweep.models)} if sweep.models else {}
    methods = {METHOD: list(sweep.methods)} if sweep.methods else {}
    return {SEED: list(range(sweep.seeds))} | networks | methods | sweep.axes


def configs(sweep: Sweep) -> list[Config]:
    """All points of the grid in their order in the tables: setting by setting, seeds within."""
    axes = space(sweep)
    keys = [name for name in axes if name != SEED] + [SEED]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axes[name] for name in keys))]


def training(sweep: Sweep, config: Config, threads: int, device: Device) -> Training:
    """What the trial at the point `config` trains; raises InputError for values that make no training.

    A sweep over networks or learning rates decides the rate of every method, also of one with a rate of its own.
    """
    overrides = sweep.fixed | {name: config[name] for name in sweep.axes}
    overrides |= {RATE: sweep.rates[config[MODELS]]} if sweep.rates else {}
    entry = sweep.models[config[MODELS]] if sweep.models else Entry(config.get(METHOD, sweep.method))
    params = resolve(sweep, overrides | (_network(sweep, overrides, entry) if sweep.models else {}))
    if entry.method not in params.methods:
        raise InputError(f"method: expected one of {', '.join(params.methods)}, found {entry.method!r}")
    how = params.methods[entry.method]
    if sweep.models or any(map(gives_rate, overrides, overrides.values())):
        rate = params.train.schedule.learning_rate
        how = replace(how, schedule=replace(how.schedule, learning_rate=rate))
    if entry.units is not None:
        how = replace(how, units=entry.units)
    own = params.compute
    compute = Compute(device=device, threads=threads, workers=own.workers, transport=own.transport)
    changed = {"compute": compute, "methods": params.methods | {entry.method: how}}
    return Training(params.model_copy(update=changed), entry.method, config[SEED])


def gives_rate(name: str, value: object) -> bool:
    """Whether a parameter, or the group of a dotted name, sets the learning rate of the training."""
    return RATE in leaves(name, value)


def leaves(name: str, value: object) -> Iterator[str]:
    """Dotted names of all parameters that a value sets: of each member where it is a group."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(f"{name}.{key}", inner)
    else:
        yield name


def _network(sweep: Sweep, overrides: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """The network of an entry, at an image size that all of them take: they halve it five times, AlexNet to 2 and more.

    A comparison at one size is what the paper makes (224); a face of 48x48 is interpolated to 64x64.
    """
    wanted = resolve(sweep, overrides).model.input_size
    size = max(2, -(-wanted // HALVINGS)) * HALVINGS
    return {"model.input_size": size} if entry.model is None else {"model": {"name": entry.model, "input_size": size}}


def resolve(sweep: Sweep, overrides: dict[str, Any]) -> Params:
    """Validated parameters with overrides; raises InputError naming what is wrong."""
    for name in overrides:
        if name in FROM_RESOURCES:
            raise InputError(f"{name}: follows from the resources of a trial, --cpus-per-trial and --gpus-per-trial")
        if name in ("compute.workers", "compute.transport"):
            raise InputError(f"{name}: changes no result; set it in {sweep.files.path}")
        if name.split(".")[0] not in TRAINABLE:
            raise InputError(f"{name}: no parameter of a training; expected a name below {', '.join(TRAINABLE)}")
    return parameters.resolve(sweep.files, overrides)


def check(sweep: Sweep) -> None:
    """Raise InputError where a point of the grid is no training or trains the same as another point."""
    if sweep.seeds < 1:
        raise InputError(f"--seeds: expected 1 or more, found {sweep.seeds}")
    if sweep.models and (others := sweep.axes.keys() - {MODELS, RATE}):
        raise InputError(f"{min(others)}: expected one value; the networks of a sweep may differ in the rate alone")
    seen: dict[str, Config] = {}
    used: set[str] = set()
    for config in configs(sweep):
        what = training(sweep, config, 1, "cpu")
        used.add(what.method)
        train = replace(what.params.train, schedule=what.how.schedule)  # which is all that a trial reads
        key = repr((what.params.model, train, what.how, what.seed))
        if config == seen.get(key):
            raise InputError(f"{names.label(config)}: a value stands twice, which has no effect")
        if key in seen:
            raise InputError(
                f"{names.label(seen[key])} and {names.label(config)} are the same training: a value has no effect on "
                f"method {what.method}{'' if sweep.models else '; --method names another'}"
            )
        seen[key] = config
    check_fixed(sweep, used)
    found = [names.identifier(config) for config in seen.values()]
    if len(set(found)) < len(found):
        raise InputError(f"values that differ by more than punctuation are needed to name trials apart: {found}")


def check_fixed(sweep: Sweep, used: Collection[str]) -> None:
    """Raise InputError where a value that is set for all trials reaches none: another replaces it, or no method has it.

    used: names of the methods that trials have. Values that vary show this by two points that train the same.
    """
    fixed = [leaf for name, value in sweep.fixed.items() for leaf in leaves(name, value)]
    varied = (leaf for name, values in sweep.axes.items() for value in values for leaf in leaves(name, value))
    common = bool(sweep.models) or RATE in {*fixed, *varied}
    for leaf in fixed:
        kind, method, own = [*leaf.split(".", 2), "", ""][:3]
        if kind == "methods" and method not in used:
            raise InputError(f"{leaf}: no trial has the method {method!r}, expected one of {', '.join(sorted(used))}")
        if kind == "methods" and common and f"train.{own}" == RATE:
            raise InputError(
                f"{leaf}: this sweep sets the learning rate of all methods by {RATE}; expected one of them"
            )


def methods_of(sweep: Sweep) -> set[str]:
    """Names of the methods that trials have."""
    return {training(sweep, config, 1, "cpu").method for config in configs(sweep)}


def point(sweep: Sweep, config: Config) -> Config:
    """The axes of what Ray Tune hands to a trial, in their order and the seed last.

    A search that repeats its settings numbers the repetitions instead of choosing a seed.
    """
    seed = config[SEED] if SEED in config else config.get(REPETITION, 0)
    return {name: config[name] for name in space(sweep) if name != SEED} | {SEED: seed}


def specification(sweep: Sweep, search: str, samples: int) -> dict[str, Any]:
    """All that decides the results but for data, code and resources, as plain JSON values."""
    base = resolve(sweep, sweep.fixed).model_dump(mode="json", include={"profile", "model", "train", "methods"})
    base["methods"] = {name: base["methods"][name] for name in sorted(methods_of(sweep))}
    return {
        "sweep": sweep.name,
        "method": sweep.method,
        "space": space(sweep),
        "fixed": sweep.fixed,
        MODELS: {name: asdict(entry) for name, entry in sweep.models.items()},
        "rates": sweep.rates,
        "search": search,
        "samples": samples if search == "optuna" else None,
        "params": base,
    }
