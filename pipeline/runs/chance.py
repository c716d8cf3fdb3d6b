"""What an accuracy is worth beside chance: the share of the largest class, and how uncertain a share is."""

import math
from collections.abc import Sequence

from torch import Tensor

PATIENCE = 3  # epochs after which a training that has learnt nothing says so


def majority(labels: Tensor) -> float:
    """Share of the largest class among labels (n,)."""
    return labels.bincount().max().item() / len(labels)


def standard_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent cases."""
    return math.sqrt(share * (1 - share) / count)


def collapsed(accuracy: float, labels: Tensor) -> bool:
    """Whether an accuracy on faces with labels (n,) is not more than one standard error above the largest class."""
    return accuracy <= majority(labels) + standard_error(accuracy, len(labels))


def stuck(accuracies: Sequence[float], labels: Tensor) -> bool:
    """Whether the last PATIENCE of the accuracies after each epoch have all collapsed; False for fewer epochs."""
    last = accuracies[-PATIENCE:]
    return len(last) == PATIENCE and all(collapsed(accuracy, labels) for accuracy in last)
