"""One thread for torch, so that tests beside other work stay fast and sums keep one order; no run reaches W&B."""

import os

import torch


def pytest_configure() -> None:
    os.environ.setdefault("WANDB_MODE", "disabled")
    torch.set_num_threads(1)
