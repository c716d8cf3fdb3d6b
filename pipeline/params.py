"""params.yaml in, frozen dataclasses of cfpn out: profile chosen, overrides applied, unknown names refused."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cfpn.model import CFPN
from cfpn.training import Method, Recipe
from pipeline.networks import Baseline
from pipeline.process import InputError

GROUPS = {
    "run": ("methods", "seeds"),
    "sample": ("rows", "seed"),
    "ingest": ("drop",),
    "augment": ("seed", "border", "sigma"),
    "bench": ("rounds", "batch"),
    "tracking": ("project",),
}  # of params.yaml that stages take from their command lines
SECTIONS = ("source", "model", "train", "methods", "compute", "sweeps", *GROUPS)


@dataclass(frozen=True)
class Training(Recipe):
    """The recipe with the faces to learn from.

    faces: the 7x augmented file or the train split itself. limit: only so many from its beginning, 0 for all, where a
    sweep over large networks has to fit a small machine. Raises ValueError for a limit smaller than a batch.
    """

    faces: Literal["augmented", "original"] = "original"
    limit: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit and self.limit < self.batch:
            raise ValueError(f"train.limit: expected 0 or at least a batch of {self.batch}, found {self.limit}")

    @property
    def recipe(self) -> Recipe:
        """What cfpn knows of it."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})


@dataclass(frozen=True)
class Compute:
    """Where and with how many threads one training runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads: expected 1 or more, found {self.threads}")


class Params(BaseModel):
    """What a training needs of params.yaml with the profile's part merged in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str
    model: CFPN | Baseline
    train: Training
    methods: dict[str, Method]
    compute: Compute


def load(path: Path, overrides: dict[str, Any] | None = None) -> Params:
    """Validated parameters of the profile that `path` names; overrides are dotted names, with or without the profile.

    Raises InputError for a name or value that is not one, naming it.
    """
    raw = read(path)
    # The profile comes first: it decides where the other names stand.
    for name, value in sorted((overrides or {}).items(), key=lambda item: item[0] != "profile"):
        override(raw, name, value)
    chosen = {key: value for key, value in merged(raw).items() if key in Params.model_fields}
    try:
        return Params.model_validate(chosen)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from error


def read(path: Path) -> dict[str, Any]:
    """The YAML file as it stands; raises InputError where it is missing or no mapping."""
    try:
        raw = YAML(typ="safe").load(path)
    except (FileNotFoundError, YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(raw, dict) or not {"profile", "profiles"} <= set(raw):
        raise InputError(f"{path}: expected a mapping with the keys 'profile' and 'profiles'")
    _chosen(raw)
    _refuse_unknown(raw)
    return raw


def _refuse_unknown(raw: dict[str, Any]) -> None:
    """Raise InputError for a key that nothing reads, but for those inside what `Params` itself checks."""
    for key in raw:
        _refuse(key, "", ("profile", "profiles", *SECTIONS))
    for name, own in raw["profiles"].items():
        for key in own:
            _refuse(key, f"profiles.{name}", SECTIONS)
    for name, known in GROUPS.items():
        for key in raw.get(name, {}):
            _refuse(key, name, known)


def _refuse(key: str, place: str, known: tuple[str, ...]) -> None:
    if key not in known:
        name = f"{place}.{key}".lstrip(".")
        raise InputError(f"{name}: no such parameter {_nearest(key, place, dict.fromkeys(known))}")


def _chosen(raw: dict[str, Any]) -> dict[str, Any]:
    """The part of the chosen profile; raises InputError where there is no such profile."""
    if raw["profile"] not in raw["profiles"]:
        raise InputError(f"profile: expected one of {', '.join(raw['profiles'])}, found {raw['profile']!r}")
    return raw["profiles"][raw["profile"]]


def merged(raw: dict[str, Any]) -> dict[str, Any]:
    """Common keys and those of the chosen profile in one mapping; raises InputError for a key that stands in both."""
    common = {key: value for key, value in raw.items() if key != "profiles"}
    own = _chosen(raw)
    twice = sorted(set(common) & set(own))
    if twice:
        raise InputError(f"{twice[0]}: stands both for all profiles and in profiles.{raw['profile']}; keep one")
    return common | own


def override(raw: dict[str, Any], name: str, value: object) -> None:
    """Set a dotted name ("train.epochs", "profiles.sample.train.epochs") in place; InputError where it is unknown."""
    parts = name.split(".")
    own = _chosen(raw)
    place = own if parts[0] in own else raw
    for depth, part in enumerate(parts[:-1]):
        if not isinstance(place, dict) or part not in place:
            known = raw | own if depth == 0 else place if isinstance(place, dict) else {}
            raise InputError(f"{name}: no parameter {part!r} {_nearest(part, '.'.join(parts[:depth]), known)}")
        place = place[part]
    if not isinstance(place, dict):
        raise InputError(f"{name}: {'.'.join(parts[:-1])} is a value, not a group of parameters")
    if len(parts) == 1 and parts[0] not in place:
        raise InputError(f"{name}: no such parameter {_nearest(parts[0], '', raw | own)}")
    place[parts[-1]] = value


def _nearest(part: str, parent: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(part, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    return f"in {parent or 'params.yaml'}{hint}"


def explain(error: ValidationError) -> str:
    """The faults of one union member only: the one whose `name` was given."""
    faults = error.errors(include_url=False, include_context=False)
    others = [fault["loc"][:-1] for fault in faults if fault["type"] == "literal_error" and fault["loc"][-1] == "name"]
    own = [fault for fault in faults if not any(fault["loc"][: len(loc)] == loc for loc in others)] or faults
    return "; ".join(_fault(f["type"], [str(part) for part in f["loc"]], f["msg"], f["input"]) for f in own[:5])


def _fault(kind: str, place: list[str], message: str, value: object) -> str:
    if kind == "unexpected_keyword_argument":
        types = Params.model_json_schema()["$defs"].values()
        known = {name for kind in types for name in kind["properties"]} - {place[-1]}
        close = difflib.get_close_matches(place[-1], known, 1)
        message = "no such parameter" + (f"; did you mean {close[0]!r}?" if close else "")
    return f"{'.'.join(place)}: {message}, found {value!r}"


def assignments(texts: list[str]) -> dict[str, Any]:
    """Overrides of "name=value" texts, values read as YAML; raises InputError where there is no "="."""
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"expected NAME=VALUE, found {text!r}")
        result[name] = YAML(typ="safe").load(value)
    return result
