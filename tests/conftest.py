"""One thread for torch, so that tests beside other work stay fast and sums keep one order; no run reaches W&B."""

import os
import signal

import torch


def pytest_configure() -> None:
    os.environ.setdefault("WANDB_MODE", "disabled")
    torch.set_num_threads(1)
    # What a shell begins in the background ignores Ctrl-C, and so would all that the tests begin.
    signal.signal(signal.SIGINT, signal.default_int_handler)
