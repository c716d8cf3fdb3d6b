"""CFPN-NBP: a cascaded feature pyramid network that learns with or without end-to-end back-propagation.

The public names load their modules when they are first used::

    from cfpn import load, predict
    network = load("weights.safetensors")
    probabilities = predict(network, pixels)  # uint8 of shape (n, 48, 48) -> (n, 7)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cfpn.checkpoint import load
    from cfpn.faces import Faces
    from cfpn.network import CFPN
    from cfpn.prediction import features, predict
    from cfpn.training import Method, train

__all__ = ["CFPN", "Faces", "Method", "features", "load", "predict", "train"]

_HOME = {"CFPN": "network", "Faces": "faces", "Method": "training", "features": "prediction", "load": "checkpoint",
         "predict": "prediction", "train": "training"}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'cfpn' has no attribute {name!r}")
    return getattr(import_module(f"cfpn.{_HOME[name]}"), name)
