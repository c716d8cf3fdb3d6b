"""What a setting is called: one name in tables, in metrics.json, on the terminal, in W&B and for folders."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

MODELS = "models"  # the axis of networks
METHOD = "method"  # the axis of methods
SEED = "seed"  # every other axis is a dotted name of the parameters
RATE = "train.schedule.learning_rate"
METRIC = "val/accuracy"  # by which settings are compared, at the best epoch of each trial
BEST = "best"  # what Tune is told of a trial: METRIC at the best epoch so far
LONGEST = 80  # characters of a name for files

Config = dict[str, Any]


def text(value: object) -> str:
    """A value as the command line takes it, which is YAML: 1, 0.5, true, null, relu, [block1, block2]."""
    return value if isinstance(value, str) else re.sub(r'"([\w./-]+)"', r"\1", json.dumps(value))


def cell(value: object) -> str:
    """A value in a table: JSON, with plain texts as they are. Numbers of one axis keep their own form: 1 beside 0.5."""
    return value if isinstance(value, str) else json.dumps(value)


def short(names: Iterable[str]) -> dict[str, str]:
    """The last part of every dotted name that is not "name", or the whole where two would be the same."""
    names = list(names)
    lasts = [name.removesuffix(".name").rpartition(".")[2] for name in names]
    return {name: last if lasts.count(last) == 1 else name for name, last in zip(names, lasts, strict=True)}


def label(config: Config) -> str:
    """A point in words: "activation=relu seed=0"."""
    names = short(config)
    return " ".join(f"{names[name]}={text(value)}" for name, value in config.items())


def setting(config: Config) -> str:
    """A point without its seed, for titles and keys: "activation=relu", or "default" where nothing varies."""
    return label({name: value for name, value in config.items() if name != SEED}) or "default"


def title(config: Config, method: str) -> str:
    """A point in words, never its seed alone: where nothing else varies, the method says what was trained."""
    return label(config if set(config) - {SEED} else {METHOD: method} | config)


def identifier(config: Config) -> str:
    """A point as a name for files and runs, unique within a sweep and at most LONGEST characters long."""
    words = label(config)
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", words).strip("_")
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
