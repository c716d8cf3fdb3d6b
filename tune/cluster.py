"""The Ray that trials run on, quiet and with as much room as a trial asks for."""

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.process import InputError
from pipeline.runs.cluster import connected, room

ADDRESS = "--address"
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "0",  # a killed driver then forgets no trial that has ended
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_maximum_gcs_destroyed_actor_cached_count": "10",  # Ray's server else remembers every trial of a long sweep
    "RAY_task_events_max_num_task_in_gcs": "100",
}


@contextmanager
def cluster(args: argparse.Namespace) -> Iterator[None]:
    """A Ray to run on: the one at --address, or one that is started here and stopped at the end."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is told by Progress and at the end
    with connected(args.address, args.cpus, ADDRESS):
        yield


def fits(args: argparse.Namespace, workers: int = 1) -> int:
    """How many trials of so many workers can run at once; the workers of one may stand on several nodes.

    Raises InputError where no node could ever hold one: Ray would wait for one without a word.
    """
    import ray

    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    nodes = [node["Resources"] for node in known if node["Alive"]]
    wanted = {"CPU": args.cpus_per_trial, "GPU": args.gpus_per_trial}
    held = room(args.cpus_per_trial, args.gpus_per_trial)
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
