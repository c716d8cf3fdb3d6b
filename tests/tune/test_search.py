"""A sweep that is asked to stop ends in order and says by its exit code who asked; what is tried again."""

import signal
from typing import Any

import pytest
from ray import tune

from tune import search


class Asked:
    """A tuner that is sent signals while it runs, and hears Tune's own request to stop."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.heard = 0

    def fit(self) -> str:
        before = signal.signal(signal.SIGUSR1, self.hear)
        try:
            for number in self.numbers:
                signal.raise_signal(number)
        finally:
            signal.signal(signal.SIGUSR1, before)
        return "results"

    def hear(self, number: int, frame: object) -> None:
        self.heard += 1


@pytest.mark.parametrize("again", [0, 1])
def test_a_sweep_that_is_asked_to_stop_ends_in_order_with_the_exit_code_of_the_signal(again: int) -> None:
    tuner = Asked(*[signal.SIGTERM] * (1 + again))
    with pytest.raises(SystemExit) as ended:
        search.fitted(tuner)
    assert (ended.value.code, tuner.heard) == (143, 1)
    tuner = Asked(*[signal.SIGINT] * (1 + again))
    with pytest.raises(KeyboardInterrupt):
        search.fitted(tuner)
    assert tuner.heard == 1


def test_a_sweep_that_nobody_disturbs_gives_its_results_and_leaves_the_handlers_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert search.fitted(Asked()) == "results"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("metrics", "error", "again"),
    [
        ({"epoch": 2, "diverged": 0, "reason": ""}, None, False),
        ({"epoch": 0, "diverged": 1, "reason": "epoch 2: val/loss is nan"}, None, True),
        ({"epoch": 2, "diverged": 0, "reason": ""}, RuntimeError("lost"), True),
        (None, RuntimeError("lost"), True),
    ],
    ids=["stopped", "diverged after an epoch", "failed", "failed at once"],
)
def test_what_failed_or_diverged_is_tried_again_and_what_the_scheduler_stopped_is_not(
    metrics: dict[str, Any] | None, error: Exception | None, again: bool
) -> None:
    assert search.tried_again(tune.Result(metrics=metrics, checkpoint=None, error=error, path="")) == again
