"""The one list of test metrics: what evaluate computes and what the page, `compare` and sweep tables show.

A new metric is one entry of METRICS; nothing else has to know of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

BINS = 15  # of confidence, for the expected calibration error
DASH = "–"

Compute = Callable[[Tensor, Tensor, Tensor], float | None]


@dataclass(frozen=True)
class Quantity:
    """A number of a run, and how tables show it.

    name: in JSON. title: in words, without its unit. digits: decimals. percent: a share in 0..1, shown in %.
    """

    name: str
    title: str
    digits: int
    percent: bool

    @property
    def header(self) -> str:
        """The title with its unit."""
        return f"{self.title}, %" if self.percent else self.title

    def text(self, value: float | None, more: int = 0) -> str:
        """A value as tables show it, with `more` decimals; a dash for none."""
        if value is None or math.isnan(value):
            return DASH
        return f"{100 * value if self.percent else value:.{self.digits + more}f}"


@dataclass(frozen=True)
class Metric(Quantity):
    """A quantity of a run's test predictions: under `name` in metrics.json, as "test/<name>" in tables of runs.

    compute: of probabilities (n, classes) float32, labels (n,) and copies (n,) bool, the faces that the training split
    holds as well; None where there is no such number.
    """

    compute: Compute


def accuracy(probabilities: Tensor, labels: Tensor, copies: Tensor) -> float:
    """Share of faces whose label has the largest probability."""
    return _correct(probabilities, labels).mean().item()


def accuracy_without_copies(probabilities: Tensor, labels: Tensor, copies: Tensor) -> float | None:
    """The same of the faces that are no copies; None where all are."""
    return None if copies.all() else _correct(probabilities, labels)[~copies].mean().item()


def _correct(probabilities: Tensor, labels: Tensor) -> Tensor:
    return (probabilities.argmax(1) == labels).double()


def macro_f1(probabilities: Tensor, labels: Tensor, copies: Tensor) -> float:
    """Mean of the F1 scores of the classes; one that is neither there nor predicted does not count."""
    # Imported here because it loads matplotlib and scipy: a second or more in every worker of a sweep.
    from torchmetrics.functional.classification import multiclass_f1_score

    return multiclass_f1_score(probabilities, labels, probabilities.shape[1], average="macro").item()


def expected_calibration_error(probabilities: Tensor, labels: Tensor, copies: Tensor) -> float:
    """Mean distance of confidence and accuracy over BINS equal bins of confidence (Guo et al. 2017)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    below_one = probabilities.clamp_max(1 - 2**-24)  # 1 itself would make a bin of its own
    return multiclass_calibration_error(below_one, labels, probabilities.shape[1], n_bins=BINS).item()


def negative_log_likelihood(probabilities: Tensor, labels: Tensor, copies: Tensor) -> float:
    """Mean over faces of minus the logarithm of the label's probability, in nats."""
    return F.nll_loss(probabilities.double().clamp_min(1e-12).log(), labels).item()


def wilson(share: float, count: float) -> tuple[float, float]:
    """Ends of the 95 % interval of a share of `count` independent cases (Wilson 1927); columns will do too."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5 / (1 + z**2 / count)
    return middle - half, middle + half


METRICS = (
    Metric("accuracy", "Test accuracy", 1, True, accuracy),
    Metric("accuracy_without_copies", "Without copies", 1, True, accuracy_without_copies),
    Metric("macro_f1", "Macro-F1", 1, True, macro_f1),
    Metric("expected_calibration_error", "ECE", 1, True, expected_calibration_error),
    Metric("negative_log_likelihood", "NLL", 3, False, negative_log_likelihood),
)
NAMES = tuple(metric.name for metric in METRICS)
