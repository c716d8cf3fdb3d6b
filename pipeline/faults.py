"""What is wrong with parameters, in a user's words: the file, the dotted name, what was expected and found."""

import dataclasses
import difflib
import re
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from pipeline.process import InputError

TAGS = ("name", "estimator")  # fields that tell the kinds of one parameter apart
SHOWN = 5  # faults in one message
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a group of parameters",
    "dataclass": "a group of parameters",
}  # by the beginning of pydantic's types of errors


class Source(NamedTuple):
    """A parameter file with its content, placed as the schema has it."""

    file: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """A group of parameters: the type that holds them, and the keys of mappings with free keys by their dotted name.

    tag: the one of several kinds that it is, "alexnet" of the networks.
    """

    kind: Any
    keys: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    tag: str = ""

    def check(self, raw: dict[str, Any], files: list[Source], overrides: Collection[str], place: str = "") -> None:
        """Refuse names that are none, and say which kind is meant where a union leaves it open.

        `raw` changes in place: where a tag is missing, that of the default is written. Raises InputError.
        """
        for name, value in raw.items():
            at = f"{place}.{name}".lstrip(".")
            known = self.children(place, raw)
            if name not in known:
                raise InputError(
                    f"{origin(at, files, overrides)}{at}: no such parameter{self._of}{nearest(str(name), known)}"
                )
            below = Group(known[name], self.keys)
            if not below.is_group:
                continue
            if not isinstance(value, dict):
                names = ", ".join(below.children(at))
                message = f"expected a group of parameters ({names}), found {value!r}"
                raise InputError(f"{origin(at, files, overrides)}{at}: {message}")
            try:
                below = below.chosen(value, self._default(name))
            except ValueError as error:
                raise InputError(f"{origin(at, files, overrides)}{at}.{error}") from error
            below.check(value, files, overrides, at)

    @property
    def is_group(self) -> bool:
        """Whether there are names below."""
        return any(_fields(kind) is not None for kind in _kinds(self.kind))

    def children(self, place: str, present: Iterable[str] = ()) -> dict[str, Any]:
        """Names below with their types, of all kinds of a union; `present`: the keys where they are free."""
        result: dict[str, Any] = {}
        for kind in _kinds(self.kind):
            found = _fields(kind)
            if found is None:
                continue
            result |= (
                dict.fromkeys(self.keys.get(place, present), get_args(kind)[1]) if get_origin(kind) is dict else found
            )
        return result

    def chosen(self, raw: dict[str, Any], default: object) -> "Group":
        """The one kind of a union that the tag in `raw` names, by default that of `default`; writes the tag."""
        kinds = [(kind, found) for kind in _kinds(self.kind) if (found := _fields(kind)) is not None]
        tags = [tag for tag in TAGS if all(get_origin(found.get(tag)) is Literal for _, found in kinds)]
        if len(kinds) < 2 or not tags:
            return self
        names = {name: kind for kind, found in kinds for name in get_args(found[tags[0]])}
        name = raw.setdefault(tags[0], getattr(default, tags[0], next(iter(names))))
        if name not in list(names):  # a list, since what a user wrote may be unhashable
            hint = nearest(str(name), names, listed=False)
            raise ValueError(f"{tags[0]}: expected one of {', '.join(names)}, found {name!r}{hint}")
        return Group(names[name], self.keys, str(name))

    @property
    def _of(self) -> str:
        return f" of {self.tag}" if self.tag else ""

    def _default(self, name: str) -> object:
        """The default of a field; None where there is none."""
        for kind in _kinds(self.kind):
            for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
                if field.name == name and field.default_factory is not dataclasses.MISSING:
                    return field.default_factory()
        return None


def walk(schema: Group, name: str) -> None:
    """Raise InputError where the dotted `name` is no parameter of `schema`."""
    place = ""
    for part in name.split("."):
        if not schema.is_group:
            if get_origin(schema.kind) is not dict:
                raise InputError(f"{name}: {place} is a value, not a group of parameters")
            return
        known = schema.children(place)
        if part not in known:
            where = f" in {place}" if place else ""
            raise InputError(f"{name}: no parameter {part!r}{where}{nearest(part, known)}")
        schema, place = Group(known[part], schema.keys), f"{place}.{part}".lstrip(".")


def refuse_unknown(source: Source, known: Collection[str]) -> None:
    """Raise InputError for a section that does not belong in this file."""
    for name in source.content:
        if name not in known:
            raise InputError(f"{source.file}: {name}: no such parameter{nearest(str(name), known)}")


def nearest(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """A suggestion to end a message with: the nearest known name, else, where `listed`, all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if listed and known else ""


def origin(place: str, files: list[Source], overrides: Collection[str]) -> str:
    """ "FILE: " of the file that a value stands in, nothing for one that was given on the command line."""
    if any(f"{place}.".startswith(f"{name}.") for name in overrides):
        return ""
    if place.startswith("methods.") and ".schedule." in place and not _sources(place, files):
        place = "train.schedule." + place.rpartition(".")[2]
    parts = place.split(".")
    for length in range(len(parts), 0, -1):
        found = _sources(".".join(parts[:length]), files)
        if found:
            return f"{found[-1]}: "
    return f"{files[-1 if parts[0] in ('model', 'train') else 0].file}: "


def _sources(place: str, files: list[Source]) -> list[Path]:
    return [source.file for source in files if _has(source.content, place.split("."))]


def _has(raw: object, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(raw, dict) or part not in raw:
            return False
        raw = raw[part]
    return True


def faults(error: ValidationError, raw: dict[str, Any], files: list[Source], overrides: Collection[str]) -> str:
    """The faults that pydantic found in `raw`, those of the kinds that a tag excludes left out."""
    found = error.errors(include_url=False)
    tagged = [one["loc"][:-1] for one in found if one["type"] == "literal_error" and one["loc"][-1] in TAGS]
    excluded = [kind for kind in tagged if _is_member(raw, kind)]
    texts: dict[str, str] = {}
    for one in found:
        if any(one["loc"][: len(loc)] == loc for loc in excluded):
            continue
        parts = _place(raw, one["loc"])
        place, message = _joined(".".join(parts), *_message(one))
        texts.setdefault(place, f"{origin(place, files, overrides)}{place}: {message}")
    return "; ".join([text for place, text in texts.items() if not _follows(place, texts)][:SHOWN])


def _follows(place: str, places: Collection[str]) -> bool:
    """Whether another fault explains this one: one below it, or one of train.schedule, which methods begin with."""
    common = f"train.schedule.{place.rpartition('.')[2]}" if ".schedule." in place else place
    return (common != place and common in places) or any(one.startswith(f"{place}.") for one in places)


def _is_member(raw: object, loc: tuple[int | str, ...]) -> bool:
    """Whether the last part of pydantic's location is no key of the file but a member of a union."""
    return _place(raw, loc) == _place(raw, loc[:-1])


def _place(raw: object, loc: tuple[int | str, ...]) -> list[str]:
    """The keys of pydantic's location that stand in the file: it also names the members of unions."""
    result = []
    for at, part in enumerate(loc):
        if isinstance(raw, dict) and (part in raw or (at == len(loc) - 1 and not re.search(r"[^a-z_]", str(part)))):
            result.append(str(part))
            raw = raw.get(part)
        elif isinstance(raw, list | tuple) and isinstance(part, int):
            result.append(str(part))
            raw = raw[part]
    return result


def _message(one: Mapping[str, Any]) -> tuple[str, str]:
    """What was expected, and what was found."""
    kind, context = one["type"], one.get("ctx", {})
    if kind == "value_error":
        return str(context["error"]), ""
    if kind == "missing":
        return "missing", ""
    bounds = {
        "ge": "{} or more",
        "gt": "more than {}",
        "le": "{} or less",
        "lt": "less than {}",
        "min_length": "at least {} value",
    }
    expected = next((text.format(context[name]) for name, text in bounds.items() if name in context), None)
    expected = expected or (context["expected"].replace("'", "") if kind == "literal_error" else None)
    expected = expected or EXPECTED.get(kind.partition("_")[0], one["msg"])
    return f"expected {expected}", f", found {one['input']!r}"


def _joined(place: str, message: str, found: str) -> tuple[str, str]:
    """Place and message, where the message of a dataclass begins with a name of its own."""
    own, colon, rest = message.partition(": ")
    if not colon or not re.fullmatch(r"[a-z_.]+", own):
        return place, message + found
    parents, _, last = place.rpartition(".")
    if own == last or own.startswith(f"{last}."):
        return f"{parents}.{own}".lstrip("."), rest + found
    return f"{place}.{own}", rest + found


def _kinds(kind: Any) -> list[Any]:  # noqa: ANN401 - types as typing has them
    """The members of a union, or the type alone; annotations are left out."""
    if get_origin(kind) is Annotated:
        return _kinds(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [member for one in get_args(kind) for member in _kinds(one)]
    return [kind]


def _fields(kind: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """Names and types of what a type holds; None for a plain value."""
    if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        hints = get_type_hints(kind, include_extras=True)
        names = (
            {field.name for field in dataclasses.fields(kind)}
            if dataclasses.is_dataclass(kind)
            else set(kind.model_fields)
        )
        return {name: hint for name, hint in hints.items() if name in names}
    if get_origin(kind) is dict and _fields(get_args(kind)[1]) is not None:
        return {}
    return None
