"""A Ray to work on: the one at an address, or one that is started here and stopped at the end."""

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from pipeline.process import InputError

CODE = Path(__file__).resolve().parents[2]
PACKAGES = ("cfpn", "pipeline", "tune")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE = 5.0  # seconds for an address to answer


@contextmanager
def connected(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Connect to the Ray at `address` ("auto", or host:port), or start one on this machine with `cpus` of its CPUs.

    Where this process is connected already, as in the trial of a sweep, that connection serves and stays. Raises
    InputError where nothing answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    before = signal.getsignal(signal.SIGTERM)
    if address is None:
        _start(cpus, options)
    else:
        _join(address, options)
    signal.signal(signal.SIGTERM, before)  # Ray's own would abort this process
    try:
        yield
    finally:
        ray.shutdown()


def _start(cpus: int | None, options: dict[str, Any]) -> None:
    # Ray would write a token into the home folder, which may be read-only.
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: workers would starve beside anything else
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)


def _join(address: str, options: dict[str, Any]) -> None:
    answering(address)
    try:
        modules = [str(CODE / name) for name in PACKAGES]
        ray.init(address=address, runtime_env={"py_modules": modules}, **options)
    except ConnectionError as error:
        raise InputError(f"{address}: no Ray answers there: {error}") from error


def answering(address: str) -> None:
    """Raise InputError within seconds where nothing listens at host:port; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if address == "auto" or not colon:
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{address}: no Ray answers there ({error}); start one with `ray start --head`") from error


def room(cpus: int, gpus: int) -> int:
    """How many workers of so many CPUs and GPUs the nodes can hold that are up."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    there = [node["Resources"] for node in nodes if node["Alive"]]
    wanted = {"CPU": cpus, "GPU": gpus}
    return sum(min(int(one.get(name, 0) // each) for name, each in wanted.items() if each) for one in there)


def check_resources(workers: int, cpus: int, gpus: int) -> None:
    """Raise InputError where the cluster has no place for `workers` workers: Ray would wait without a word."""
    if workers > (places := room(cpus, gpus)):
        each = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        raise InputError(f"compute.workers: {workers} workers of {each}; the cluster has place for {places}")
