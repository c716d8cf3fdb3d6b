"""One list of metrics serves evaluate, tables and sweeps."""

import torch

from pipeline import evaluate
from pipeline.metrics import METRICS, NAMES, Metric

PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]])
LABELS, COPIES = torch.tensor([0, 1, 1, 2]), torch.tensor([True, False, False, False])


def test_evaluate_reports_every_metric_of_the_list() -> None:
    report = evaluate.metrics(PROBABILITIES, LABELS, COPIES, ("a", "b", "c"))
    assert {name: report[name] for name in NAMES} == {m.name: m.compute(PROBABILITIES, LABELS, COPIES) for m in METRICS}


def test_metrics_have_the_values_of_their_definitions() -> None:
    found = {metric.name: metric.compute(PROBABILITIES, LABELS, COPIES) for metric in METRICS}
    assert found["accuracy"] == 0.75
    assert found["accuracy_without_copies"] == 2 / 3
    f1 = [2 / 3, 2 / 3, 1.0]
    assert abs(found["macro_f1"] - sum(f1) / 3) < 1e-6
    gaps = (1 - 0.7, 2 - 0.6 - 0.6, 0.5)  # of the bins that hold 0.7, twice 0.6, and 0.5
    assert abs(found["expected_calibration_error"] - sum(gaps) / 4) < 1e-6
    logs = torch.tensor([0.7, 0.6, 0.4, 0.6]).log()
    assert abs(found["negative_log_likelihood"] + logs.mean().item()) < 1e-6


def test_a_value_is_written_with_its_unit_and_digits() -> None:
    share = Metric("x", "Share", 1, True, lambda *_: None)
    number = Metric("y", "Number", 3, False, lambda *_: None)
    assert (share.header, number.header) == ("Share, %", "Number")
    assert (share.text(0.6234), share.text(0.6234, more=1), number.text(1.03)) == ("62.3", "62.34", "1.030")
    assert share.text(None) == share.text(float("nan")) == "–"
