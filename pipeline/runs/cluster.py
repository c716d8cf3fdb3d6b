"""A Ray to work on: the one at an address, or one that is started here and stopped at the end.

Ray is imported where it is used: it takes a second. Where the process is killed, the workers and
servers of a Ray that it started end with it. Two idle agents of Ray follow within about a minute.
"""

import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.process import InputError

CODE = Path(__file__).resolve().parents[2]
PACKAGES = ("cfpn", "pipeline", "tune")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE = 3.0  # seconds for an address to answer
SOCKETS = "AF_UNIX"  # in the message of a path that is too long for a socket


@contextmanager
def connected(address: str | None, cpus: int | None = None, name: str = "compute.address") -> Iterator[None]:
    """Connect to the Ray at `address` ("auto", or host:port), or start one on this machine with `cpus` of its CPUs.

    Where this process is connected already, as in the trial of a sweep, that connection serves and stays. Raises
    InputError where nothing answers at the address, which messages call `name`.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    before = signal.getsignal(signal.SIGTERM)
    if address is None:
        start(cpus, options)
    else:
        _join(address, options, name)
    signal.signal(signal.SIGTERM, before)  # Ray's own would abort this process
    try:
        yield
    finally:
        ray.shutdown()


def start(cpus: int | None, options: dict[str, Any]) -> None:
    """A Ray on this machine; InputError where its sockets would have too long a path."""
    import ray

    # Ray would write a token into the home folder, which may be read-only.
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: workers would starve beside anything else
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    except OSError as error:
        if SOCKETS not in str(error):
            raise
        raise InputError(
            f"Ray's sockets cannot lie below {tempfile.gettempdir()}: set TMPDIR to a shorter path"
        ) from error


def _join(address: str, options: dict[str, Any], name: str) -> None:
    import ray

    reach(address, name)
    try:
        modules = [str(CODE / package) for package in PACKAGES]
        ray.init(address=address, runtime_env={"py_modules": modules}, **options)
    except ConnectionError as error:
        raise InputError(f"{name} {address}: no Ray answers there: {error}") from error


def reach(address: str, name: str) -> None:
    """Raise InputError where nothing listens at HOST:PORT within PATIENCE seconds: Ray itself would wait for minutes.

    "auto" and the like are left to Ray.
    """
    if address.startswith("ray://"):
        raise InputError(f"{name}: run the command on the cluster (ray job submit) instead of through ray://")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        if address in ("auto", "local"):
            return
        raise InputError(f"{name}: expected HOST:PORT or auto, found {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"{name} {address}: nothing answers there ({error}); `ray start --head` starts a Ray"
        ) from error


def room(cpus: float, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs, or parts of one, the nodes can hold that are up."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    there = [node["Resources"] for node in nodes if node["Alive"]]
    wanted = {"CPU": cpus, "GPU": gpus}
    return sum(min(int(one.get(name, 0) / each + 1e-9) for name, each in wanted.items() if each) for one in there)


def check_resources(workers: int, cpus: int, gpus: int) -> None:
    """Raise InputError where the cluster has no place for `workers` workers: Ray would wait without a word."""
    if workers > (places := room(cpus, gpus)):
        each = f"{gpus} GPUs (compute.device=cpu takes CPUs)" if gpus else f"{cpus} CPUs"
        raise InputError(f"compute.workers: {workers} workers of {each}; the cluster has place for {places}")
