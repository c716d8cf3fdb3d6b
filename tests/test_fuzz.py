"""Readers take damaged input or refuse it as documented; `python -m bench.fuzz` draws more of the same."""

import pytest

from bench import fuzz

COUNTS = {"ingest": 25, "split": 30, "weights": 25, "picture": 60, "files": 10, "overrides": 12}


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_damaged_input_is_taken_or_refused_as_documented(target: str) -> None:
    fuzz.fuzz(target, COUNTS[target], seed=0)
