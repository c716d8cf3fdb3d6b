"""All parameter files as one schema: params.yaml, methods.yaml, the profile's file and sweeps/params.yaml."""

from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cfpn.graph import Cuts
from cfpn.recipe import Recipe
from cfpn.schedule import Schedule
from cfpn.training import Method
from pipeline.faults import Group, Source, faults, nearest, refuse_unknown, walk
from pipeline.networks import Model
from pipeline.process import MOST_THREADS, InputError

Raw = dict[str, Any]
RULES = ("constant", "conflicting", "copies", "duplicates")  # keys of `pipeline.data.audit.RULES`


def known_rules(text: str) -> str:
    """Rules of the audit by commas, or "none", as `pipeline.ingest --drop` takes them; ValueError for other words."""
    if text != "none" and not set(text.split(",")) <= set(RULES):
        raise ValueError(f"expected none, or some of {', '.join(RULES)} by commas, found {text!r}")
    return text


Rules = Annotated[str, AfterValidator(known_rules)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator of random numbers takes
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Run:
    """Which trainings `dvc repro` makes: every method from every seed."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("nbp", "bp")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)


Transport = Literal["object_store", "gloo", "nccl"]


@dataclass(frozen=True)
class Compute:
    """Where one training runs, with how many threads, and how many Ray workers share its units.

    transport: how features go from worker to worker.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1
    workers: Count = 1
    address: str | None = None
    transport: Transport = "object_store"


@dataclass(frozen=True)
class Tracking:
    """The project of Weights & Biases."""

    project: str = "cfpn-nbp"


@dataclass(frozen=True)
class Sample:
    """Drawn faces: how many, from which seed."""

    rows: Count = 4000
    seed: Seed = 0


@dataclass(frozen=True)
class Ingest:
    """What the ingest stage is asked for.

    drop: rows of the Training split that are left out: none, or some rules of `pipeline.data.audit`, by commas.
    validation_share, test_share: of the faces, for splits that the source does not name. seed: of this cut.
    """

    drop: Rules = "none"
    validation_share: Share = 0.0
    test_share: Share = 0.0
    seed: Seed = 0


@dataclass(frozen=True)
class Augment:
    """The seven copies of a face: seed, what a rotation leaves open, noise in grey levels."""

    seed: Seed = 0
    border: Literal["border", "zeros", "reflection"] = "border"
    sigma: Annotated[float, Field(ge=0)] = 10.0


@dataclass(frozen=True)
class Bench:
    """Measured steps of each method, and their batch."""

    rounds: Annotated[int, Field(ge=2)] = 20
    batch: Annotated[int, Field(ge=4)] = 128


@dataclass(frozen=True)
class Training(Recipe):
    """The recipe with the schedule that methods start from, and the faces to learn from.

    faces: the 7x augmented file or the train split itself. limit: only so many from its beginning, 0 for all, where a
    sweep over large networks has to fit a small machine. wrong_labels, in [0, 1): share of them that get another label.
    Raises ValueError for a limit smaller than a batch, and for a share that is none.
    """

    schedule: Schedule = field(default_factory=Schedule)
    faces: Literal["augmented", "original"] = "original"
    limit: int = 0
    wrong_labels: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit and self.limit < self.batch:
            raise ValueError(f"train.limit: expected 0 or at least a batch of {self.batch}, found {self.limit}")
        if not 0 <= self.wrong_labels < 1:
            raise ValueError(f"train.wrong_labels: expected 0 or more and less than 1, found {self.wrong_labels}")

    @property
    def recipe(self) -> Recipe:
        """What cfpn knows of it."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})


class Params(BaseModel):
    """Every parameter of the workflow, the methods with their whole schedules.

    photographs: whether the profile refuses drawn faces.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str
    source: str = "data/sample.csv"
    run: Run = Run()
    compute: Compute = Compute()
    tracking: Tracking = Tracking()
    sample: Sample = Sample()
    ingest: Ingest = Ingest()
    augment: Augment = Augment()
    bench: Bench = Bench()
    photographs: bool = False
    model: Model
    train: Training
    methods: dict[str, Method]


@dataclass(frozen=True)
class Entry:
    """A network of a sweep over networks: the method and, unless it is the profile's network, its name.

    units: where gradients stop in it, where that is not what the method says: blocks of other networks differ in name.
    """

    method: str
    model: str | None = None
    units: Cuts | None = None


@dataclass(frozen=True)
class Sweep:
    """What a sweep tries: values by dotted parameter, methods or networks by label; test: score the test split too.

    method: of all trials, where neither methods nor networks vary.
    """

    method: str = "nbp"
    methods: list[str] = field(default_factory=list)
    space: dict[str, Annotated[list[Any], Field(min_length=1)]] = field(default_factory=dict)
    models: dict[str, Entry] = field(default_factory=dict)
    seeds: Count = 1
    test: bool = False


OF_PROFILE = ("photographs", "model", "train", "methods")  # sections of profiles/NAME.yaml
OF_ALL = tuple(name for name in Params.model_fields if name not in OF_PROFILE)  # sections of params.yaml
OF_RESTING_UNITS = ("first_unit_stops_at", "update_every")  # of a schedule; where gradients pass no unit can rest


class Files(NamedTuple):
    """The content of the parameter files, so that a trial on another machine needs none of them.

    methods: of methods.yaml, beside `path`. profiles: of profiles/NAME.yaml by name.
    """

    path: Path
    common: Raw
    methods: Raw
    profiles: dict[str, Raw]


def refuse_drawn(params: Params, drawn: bool, advice: str) -> None:
    """Raise InputError where drawn faces meet a profile for photographs, which would train long for nothing.

    advice: how the user names other faces, or lets these pass.
    """
    if drawn and params.photographs:
        raise InputError(
            f"profile {params.profile} is for photographs, and the faces of {params.source} are drawn: {advice}"
        )


def load(path: Path = Path("params.yaml"), overrides: Raw | None = None) -> Params:
    """Parameters of the profile that `path` names; overrides are dotted names: "methods.nbp.local_loss.hsic.beta".

    A method's schedule is train.schedule, changed by methods.yaml, then by the profile, then by overrides.
    Raises InputError for a name or value that is not one; the message says file, name and expectation.
    """
    return resolve(read_files(path), overrides)


def read_files(path: Path = Path("params.yaml")) -> Files:
    """params.yaml and what lies beside it; raises InputError where a file is missing or no mapping."""
    profiles = {file.stem: read(file) for file in sorted((path.parent / "profiles").glob("*.yaml"))}
    return Files(path, read(path), read(path.with_name("methods.yaml")), profiles)


def resolve(files: Files, overrides: Raw | None = None) -> Params:
    """What `load` does with files that were read before."""
    overrides = overrides or {}
    sources = _sources(files, overrides.get("profile", files.common.get("profile")))
    raw: Raw = {}
    for source in sources:
        raw = _merged(raw, source.content)
    schema = Group(Params, {"methods": tuple(files.methods)})
    for name, value in overrides.items():
        walk(schema, name)
        _set(raw, name, value)
    schema.check(raw, sources, overrides)
    _resolve_schedules(raw)
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise InputError(faults(error, raw, sources, overrides)) from error
    for name in params.run.methods:
        if name not in params.methods:
            raise InputError(f"{files.path}: run.methods: expected names of {files.path.with_name('methods.yaml')}, "
                             f"found {name!r}{nearest(name, params.methods)}")  # fmt: skip
    return params


def load_sweeps(path: Path = Path("sweeps/params.yaml")) -> dict[str, Sweep]:
    """The sweeps of the project by name; raises InputError for a key or value that is not one."""
    raw = read(path)
    files = [Source(path, raw)]
    Group(dict[str, Sweep]).check(raw, files, {})
    try:
        return TypeAdapter(dict[str, Sweep], config=ConfigDict(extra="forbid")).validate_python(raw)
    except ValidationError as error:
        raise InputError(faults(error, raw, files, {})) from error


def read(path: Path) -> Raw:
    """A YAML file as it stands; raises InputError where it is missing or no mapping."""
    try:
        raw = yaml(path, str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a mapping of parameters")
    return raw


def assignments(texts: list[str]) -> Raw:
    """Overrides of "name=value" texts, values read as YAML; raises InputError where there is no "="."""
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"expected NAME=VALUE, found {text!r}")
        result[name] = yaml(value, name)
    return result


def yaml(source: Path | str, name: str) -> Any:  # noqa: ANN401
    """The value that a file or a text holds; raises InputError, which begins with the name, where it is no YAML."""
    try:
        return YAML(typ="safe").load(source)
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: bytes that are not UTF-8, the 31st of June
        raise InputError(f"{name}: no YAML: {' '.join(str(error).split())}") from error


def _sources(files: Files, profile: object) -> list[Source]:
    """params.yaml, methods.yaml and the profile's file with their content, each with no section of another."""
    if profile not in list(files.profiles):  # a list, since what a user wrote may be unhashable
        known, hint = ", ".join(files.profiles), nearest(str(profile), files.profiles, listed=False)
        raise InputError(f"{files.path}: profile: expected one of {known}, found {profile!r}{hint}")
    own = Source(files.path.parent / "profiles" / f"{profile}.yaml", files.profiles[str(profile)])
    common = Source(files.path, files.common)
    refuse_unknown(common, OF_ALL)
    refuse_unknown(own, OF_PROFILE)
    return [common, Source(files.path.with_name("methods.yaml"), {"methods": files.methods}), own]


def _merged(base: Raw, changes: Raw) -> Raw:
    """`base` with the values of `changes`, group by group."""
    result = deepcopy(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = _merged(result[name], value) if both else deepcopy(value)
    return result


def _set(raw: Raw, name: str, value: object) -> None:
    *groups, last = name.split(".")
    for group in groups:
        raw = raw.setdefault(group, {})
        if not isinstance(raw, dict):
            raise InputError(f"{name}: {group} is a value in the file, not a group of parameters")
    raw[last] = deepcopy(value)


def _resolve_schedules(raw: Raw) -> None:
    """Begin each method's schedule with the fields of train.schedule; those of resting units only where these may."""
    shared = raw.get("train", {}).get("schedule", {})
    for method in raw.get("methods", {}).values():
        joint = method.get("gradients") == "pass"
        own = {name: value for name, value in shared.items() if not (joint and name in OF_RESTING_UNITS)}
        method["schedule"] = own | method.get("schedule", {})
