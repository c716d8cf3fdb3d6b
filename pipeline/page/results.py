"""What the methods reached: the result table, units, recall, curves, confusion, confidence."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.metrics import BINS, DASH, METRICS, Metric
from pipeline.page import architecture, curves, figures
from pipeline.page.curves import Curve
from pipeline.page.html import (
    Cell,
    Picture,
    Section,
    Table,
    Text,
    listed,
    mean_and_deviation,
    method_name,
    percent,
)
from pipeline.page.inputs import Inputs, collapsed, method_of, name_of, scores_of
from pipeline.runs.records import Run


def learnt(inputs: Inputs) -> str:
    """The faces of the training, in words."""
    about = inputs.runs[0].about
    augmented = about.parameters.get("train", {}).get("faces") == "augmented"
    return f"{inputs.names['train']}{', augmented' if augmented else ''} ({about.data.faces:,} faces)"


def results_section(inputs: Inputs) -> Section:
    """The result table, and which split did what."""
    header = ["Method", "Seed", "Parameters", *(metric.header for metric in METRICS)]
    header += ["Network alone, %", "its parameters", "Best epoch", "Largest class, %"]
    rows = [row for method in inputs.methods for row in method_rows(inputs.of(method))]
    names = [method_name(method) for method in inputs.methods]
    title = f"{listed(names, 'against' if len(names) == 2 else 'and')} on the test split"
    return Section("Results", [Table(title, header, rows), *map(Text, result_notes(inputs))])


def result_notes(inputs: Inputs) -> Iterator[str]:
    """What the numbers of the result table are."""
    val, test = (f"{inputs.names[name]} ({len(inputs.splits[name].labels):,})" for name in ("val", "test"))
    yield (
        f"Learnt on {learnt(inputs)}, epoch chosen on {val}, reported once on {test}. "
        "± is the binomial standard error of one run; for a mean it is the standard deviation over seeds."
    )
    counts = sorted({one.scores["test_faces_without_copies"] for one in inputs.runs if one.scores})
    left = f" ({', '.join(f'{count:,}' for count in counts)} are left)" if counts else ""
    yield (
        f"Without copies leaves out the test faces of which {inputs.names['train']} holds an identical copy{left}. "
        f"ECE is the expected calibration error over {BINS} bins. NLL is the negative log likelihood in nats. "
        "Parameters are those that predict. "
        f"Largest class is what naming the most frequent {inputs.noun} every time scores."
    )
    if any(votes(one) for one in inputs.runs):
        yield (
            "Where the units vote, the network and the heads of its units predict together. Network alone is the same "
            "network by its own classifier, without the heads. That is the network of BP."
        )


def votes(one: Run) -> bool:
    """Whether the classifiers of all units predict together."""
    return bool(method_of(one).get("vote")) and bool(scores_of(one).get("accuracy_by_unit"))


def alone(one: Run) -> float | None:
    """Test accuracy of the network's own classifier: the last unit's."""
    scores = scores_of(one)
    accuracy: float | None = list(scores["accuracy_by_unit"].values())[-1] if votes(one) else scores.get("accuracy")
    return accuracy


def own_parameters(one: Run) -> int | None:
    """Parameters of the network without the heads of its units."""
    if not method_of(one).get("vote"):
        count: int = one.training["parameters"]
        return count
    return architecture.parameters(one.about.parameters.get("model", {}))


def method_rows(runs: Sequence[Run]) -> list[list[str | Cell]]:
    """A row per seed, then the mean where there are several."""
    rows = [result_row(one) for one in runs]
    scored = [one for one in runs if one.scores]
    if len(scored) > 1:
        means = [over_seeds(metric, [scores_of(one).get(metric.name) for one in scored]) for metric in METRICS]
        means.append(over_seeds(METRICS[0], [alone(one) for one in scored]))
        cells = [method_name(runs[0].method), f"mean of {len(scored)}", "", *means, "", "", ""]
        rows.append([Cell(text, mark="mean") for text in cells])
    return rows


def over_seeds(metric: Metric, values: Iterable[float | None]) -> str:
    """Mean and deviation of a metric, of the seeds that have it."""
    known = [100 * value if metric.percent else value for value in values if value is not None]
    return mean_and_deviation(known, metric.digits)


def result_row(one: Run) -> list[str | Cell]:
    """One run in the result table."""
    name = Cell(f"{method_name(one.method)} – collapsed" if collapsed(one) else method_name(one.method))
    start: list[str | Cell] = [
        name._replace(mark="bad" if collapsed(one) else ""),
        str(one.seed),
        f"{one.training['parameters']:,}",
    ]
    own, scores = own_parameters(one), scores_of(one)
    first, *others = [metric.text(scores.get(metric.name)) for metric in METRICS]
    if scores:
        first = f"{first} ± {100 * scores['accuracy_standard_error']:.1f}"
    end = [DASH if own is None else f"{own:,}", f"{one.training['best_epoch']} of {one.training['epochs']}"]
    return [
        *start,
        Cell(first, mark="strong"),
        *others,
        METRICS[0].text(alone(one)),
        *end,
        METRICS[0].text(scores.get("majority_accuracy")),
    ]


def units_section(inputs: Inputs) -> Section | None:
    """What each unit's own classifier and their vote reach, of runs that have any."""
    runs = [one for one in inputs.runs if scores_of(one).get("accuracy_by_unit")]
    if not runs:
        return None
    names = list(dict.fromkeys(name for one in runs for name in scores_of(one)["accuracy_by_unit"]))
    rows = [
        [name_of(one), *(percent(scores_of(one)["accuracy_by_unit"].get(name)) for name in names),
         percent(scores_of(one)["accuracy_of_vote"])]
        for one in runs
    ]  # fmt: skip
    title = (
        "Test accuracy of every unit's own classifier, the network's last, and of the mean of their log probabilities"
    )
    return Section("Units", [Table(title, ("Run", *names, "vote"), rows)])


def recall_section(inputs: Inputs) -> Section | None:
    """Recall per class and run."""
    runs = [one for one in inputs.runs if one.scores]
    if not runs:
        return None
    rows = [[name_of(one), *(percent(scores_of(one)["recall"].get(name)) for name in inputs.classes)] for one in runs]
    counts = np.bincount(inputs.splits["test"].labels, minlength=len(inputs.classes))
    rows.append(["faces in the split", *(f"{count:,}" for count in counts)])
    title = f"Share of each {inputs.noun}'s test faces found"
    return Section(f"Recall per {inputs.noun}", [Table(title, ("Run", *inputs.classes), rows)])


def curves_section(inputs: Inputs) -> Section:
    """Paper Fig 8."""
    majorities = [one.training.get("majority_accuracy") for one in inputs.runs]
    figure = curves.learning_curves(histories(inputs), majorities[0])
    seeds = " The line is the mean over seeds, the band reaches from the least to the largest."
    validation = "validation (PublicTest)" if inputs.expressions else "validation"
    caption = (
        f"Accuracy and loss over epochs (paper Fig 8). Solid: {validation}, dashed: training faces while "
        "they are learnt from." + (seeds if len(inputs.runs) > len(inputs.methods) else "")
    )
    if any(method_of(one).get("vote") for one in inputs.runs):
        caption += " Where units vote, solid lines are of the vote, dashed ones of the network's own classifier."
    return Section("Training", [figures.picture("learning-curves.svg", figure, caption, ends(inputs))])


def histories(inputs: Inputs) -> list[Curve]:
    """The histories of all runs by method."""
    return [Curve(method, [one.history for one in inputs.of(method)]) for method in inputs.methods]


def ends(inputs: Inputs) -> str:
    """The validation accuracies with which the curves end."""
    last = {
        method: np.mean([one.history["val/accuracy"].iloc[-1] for one in inputs.of(method)])
        for method in inputs.methods
    }
    found = [f"{method_name(method)} at {percent(value)}" for method, value in last.items()]
    return f"After the last epoch validation accuracy stands for {listed(found)}."


def plane_section(inputs: Inputs) -> Section | None:
    """The information plane by block, where the histories hold one."""
    found = [curve for curve in histories(inputs) if all(curves.blocks(history) for history in curve.histories)]
    if not found:
        return None
    own = any(curves.own_units(history) for curve in found for history in curve.histories)
    caption = (
        "Each block between image and label, a path per block over the epochs: open dot the first, full dot the last. "
        "The measure is debiased CKA (centred kernel alignment): HSIC scaled so that 1 is full and 0 is no dependence, "
        "on validation faces. The bottleneck asks a unit to move up and, for a large compression weight, to the left."
    )
    caption += " Coloured paths are units with a loss of their own; grey ones are blocks within a unit." if own else ""
    figure = curves.information_plane(found)
    picture = figures.picture("information-plane.svg", figure, caption, highest(found), len(found) > 1)
    return Section("Information plane", [picture])


def highest(found: Sequence[Curve]) -> str:
    """The block with the largest CKA with the label of each method."""
    texts = []
    for curve in found:
        last = pd.concat([history.iloc[[-1]] for history in curve.histories]).mean(numeric_only=True)
        values = {name: last[f"block/{name}/cka_label"] for name in curves.blocks(curve.histories[0])}
        best = max(values, key=lambda name: values[name])
        texts.append(
            f"With {method_name(curve.method)}, {best} ends highest, at a CKA with the label of {values[best]:.2f}."
        )
    return " ".join(texts)


def confusion_section(inputs: Inputs) -> Section | None:
    """Confusion matrices and the reliability diagram."""
    runs = {name_of(one): one for one in inputs.runs if one.predictions is not None}
    if not runs:
        return None
    ordered = sorted(runs.values(), key=lambda one: one.seed)  # so that methods stand side by side
    blocks = [confusion_picture(one, inputs.classes) for one in ordered]
    tables = {name: (one.method, one.predictions) for name, one in runs.items()}
    caption = (
        "Accuracy against confidence, in bins that hold 1 % of the faces or more; below the dotted line a network is "
        "too sure. Bars are 95 % intervals of a bin's accuracy. The histogram shows how many faces each bin holds."
    )
    figure = figures.reliability(tables, inputs.methods)
    return Section(
        "Confusion and confidence",
        [*blocks, figures.picture("reliability.svg", figure, caption, overconfidence(runs), wide=False)],
    )


def confusion_picture(one: Run, classes: Sequence[str]) -> Picture:
    """The confusion matrix of a run."""
    matrix = confusion_matrix(one.predictions, len(classes))
    figure = figures.confusion(matrix, classes, f"{method_name(one.method)}, seed {one.seed}")
    caption = f"Confusion matrix of {name_of(one)}: counts, and the share of the row."
    return figures.picture(
        f"confusion-{name_of(one)}.svg", figure, caption, most_confused(one, matrix, classes), wide=False
    )


def confusion_matrix(predictions: pd.DataFrame, size: int) -> NDArray[np.int64]:
    """Counts (classes, classes), rows actual, columns predicted."""
    joint = predictions["label"].to_numpy(np.int64) * size + predictions["predicted"].to_numpy(np.int64)
    return np.bincount(joint, minlength=size * size).reshape(size, size)


def most_confused(one: Run, matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    """The largest share of a row beside the diagonal, in words."""
    if matrix.sum() == matrix.trace():
        return f"Confusion matrix of {name_of(one)}: every face is named by its label."
    wrong = matrix / np.maximum(1, matrix.sum(1, keepdims=True)) * (1 - np.eye(len(matrix)))
    actual, guess = np.unravel_index(wrong.argmax(), wrong.shape)
    share = f"{classes[actual]} is named {classes[guess]} in {wrong[actual, guess]:.0%} of its faces"
    return f"Confusion matrix of {name_of(one)}: the largest confusion is that {share}."


def overconfidence(runs: Mapping[str, Any]) -> str:
    """Mean confidence beside accuracy of every run."""
    texts = []
    for name, one in runs.items():
        table = one.predictions
        correct, sure = (table["label"] == table["predicted"]).mean(), figures.confidences(table).mean()
        texts.append(f"{name} is sure by {percent(sure)} and right in {percent(correct)}")
    return f"In the mean {listed(texts)}."
