"""What an accuracy is worth beside chance: the share of the largest class, and how uncertain a share is."""

import math

from torch import Tensor


def majority(labels: Tensor) -> float:
    """Share of the largest class among labels (n,)."""
    return labels.bincount().max().item() / len(labels)


def standard_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent cases."""
    return math.sqrt(share * (1 - share) / count)


def collapsed(accuracy: float, labels: Tensor) -> bool:
    """Whether an accuracy on faces with labels (n,) is not more than one standard error above the largest class."""
    return accuracy <= majority(labels) + standard_error(accuracy, len(labels))
