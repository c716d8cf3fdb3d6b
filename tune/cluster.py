"""The Ray that trials run on: one that is started here, or a running one that is asked first whether it is there.

Ray is imported where it is used, so that an address is checked at once.
"""

import argparse
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.process import InputError

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "0",  # a killed driver then forgets no trial that has ended
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
CODE = Path(__file__).resolve().parents[1]
PACKAGES = ("cfpn", "pipeline", "tune")
PATIENCE = 3.0  # seconds for a connection to a Ray
SOCKETS = "AF_UNIX"  # in the message of a path that is too long for a socket


@contextmanager
def cluster(args: argparse.Namespace) -> Iterator[None]:
    """A Ray to run on: the one at --address, or one that is started here and stopped at the end."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is told by Progress and at the end
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if args.address is None:
        start(args.cpus, options)
    else:
        connect(args.address, options)
    import ray

    try:
        yield
    finally:
        ray.shutdown()


def start(cpus: int | None, options: dict[str, Any]) -> None:
    """A Ray on this machine; InputError where its sockets would have too long a path."""
    import ray

    token()
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: trials would starve beside anything else
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
    except OSError as error:
        if SOCKETS not in str(error):
            raise
        raise InputError(
            f"Ray's sockets cannot lie below {tempfile.gettempdir()}: set TMPDIR to a shorter path"
        ) from error


def connect(address: str, options: dict[str, Any]) -> None:
    """The Ray at an address; InputError where none is there."""
    import ray

    reach(address)
    try:
        modules = [str(CODE / name) for name in PACKAGES]
        ray.init(address=address, runtime_env={"py_modules": modules}, **options)
    except ConnectionError as error:
        raise InputError(f"--address {address}: no Ray answers there: {error}") from error


def reach(address: str) -> None:
    """Raise InputError where nothing listens at HOST:PORT within PATIENCE seconds: Ray itself would wait for minutes.

    "auto" and the like are left to Ray.
    """
    if address.startswith("ray://"):
        raise InputError("--address: run the command on the cluster (ray job submit) instead of through ray://")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        if address in ("auto", "local"):
            return
        raise InputError(f"--address: expected HOST:PORT or auto, found {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address {address}: nothing answers there ({error}); `ray start --head` starts a Ray"
        ) from error


def token() -> None:
    """Give the local Ray a token of its own: Ray would write one into the home folder, which may be read-only."""
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def fits(args: argparse.Namespace, workers: int = 1) -> int:
    """How many trials of so many workers can run at once; the workers of one may stand on several nodes.

    Raises InputError where no node could ever hold one: Ray would wait for one without a word.
    """
    import ray

    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    nodes = [node["Resources"] for node in known if node["Alive"]]
    wanted = {"CPU": args.cpus_per_trial, "GPU": args.gpus_per_trial}
    held = sum(min(int(node.get(name, 0) / count + 1e-9) for name, count in wanted.items() if count) for node in nodes)
    if held >= workers:
        return held // workers
    if held:
        raise InputError(f"compute.workers: {workers} wanted, and this Ray has place for {held} at once")
    for name, flag in (("CPU", "--cpus-per-trial"), ("GPU", "--gpus-per-trial")):
        largest = max((node.get(name, 0) for node in nodes), default=0)
        if wanted[name] > largest:
            raise InputError(f"{flag}: {wanted[name]:g} wanted, and the largest node of this Ray has {largest:g}")
    both = " and ".join(f"{count:g} {name}" for name, count in wanted.items())
    raise InputError(f"--cpus-per-trial, --gpus-per-trial: no node of this Ray has {both} at once")
