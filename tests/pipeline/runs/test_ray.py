"""A Ray is refused within seconds where there is none, and ends with the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.process import InputError
from pipeline.runs import cluster

ROOT = Path(__file__).resolve().parents[3]
DRIVER = """
import ray, time
from pipeline.runs import cluster

@ray.remote
class Worker:
    def session(self):
        return ray.get_runtime_context().get_session_name()

with cluster.connected(None, 1):
    worker = Worker.remote()
    print(ray.get(worker.session.remote()), flush=True)
    time.sleep(600)
"""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # idle; they wait a minute for a server that is gone


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with (
        pytest.raises(InputError, match=r"compute\.address 127\.0\.0\.1:9: nothing answers there"),
        cluster.connected("127.0.0.1:9"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_driver_leaves_no_worker_and_no_server_behind() -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None and driver.stdout.readline().startswith("session_")
            started = below(driver.pid)
            assert any("raylet" in one for one in started.values())
            assert any("ray::Worker" in one for one in started.values())
        finally:
            os.kill(driver.pid, signal.SIGKILL)
    for _ in range(120):
        left = {pid: name for pid, name in started.items() if title(pid) == name and not name.startswith(AGENTS)}
        if not left:
            return
        time.sleep(0.25)
    pytest.fail(f"still there: {left}")


def below(pid: int) -> dict[int, str]:
    """The processes that a process has started, and those that they have started, with their titles."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child: title(child)} | below(child)
    return found


def title(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
