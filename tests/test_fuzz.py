"""Readers take damaged input or refuse it as documented; `python -m bench.fuzz` draws more of the same."""

import time

import pytest

from bench import fuzz

COUNTS = {"ingest": 25, "split": 30, "weights": 25, "picture": 60, "files": 10, "overrides": 12}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_input_is_taken_or_refused_as_documented(target: str) -> None:
    fuzz.fuzz(target, COUNTS[target], seed=0)


def test_an_input_that_takes_too_long_is_a_fault_and_time_alone_is_none() -> None:
    with pytest.raises(AssertionError, match=r"more than 0\.02 s of the processor"), fuzz.limited(0.02):
        while True:
            pass
    with fuzz.limited(0.02):
        time.sleep(0.04)
