"""Claims about bench/measured.py: what a process took is told apart from what its caller did."""

import sys

from bench.measured import measured


def test_status_and_output_are_those_of_the_process() -> None:
    done = measured([sys.executable, "-c", "import sys; print('x' * 10**6); sys.exit(3)"])
    assert (done.status, len(done.out)) == (3, 10**6 + 1)


def test_memory_is_the_peak_of_the_process() -> None:
    small, large = (measured([sys.executable, "-c", f"bytearray({size}) and None"]).memory for size in (1, 300 * 2**20))
    assert 295 < large - small < 305


def test_waiting_takes_seconds_and_computing_takes_processor_seconds() -> None:
    waiting = measured([sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert waiting.seconds > 0.5 > waiting.processor
    until = "import time\nwhile time.process_time() < 0.5: pass"
    assert measured([sys.executable, "-c", until]).processor > 0.5
