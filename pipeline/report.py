"""Stage `report`: everything the workflow found out -> one self-contained HTML page and its pictures.

`python -m pipeline.report OUT_DIR` reads the runs, their evaluations, the splits with their audit, the augmented faces
and the measurements, and writes OUT_DIR/index.html with every picture beside it as a file of its own. The same input
gives the same bytes. Runs are those that params.yaml names under `run`; others in the folder are left out, so that a
page never mixes settings.

A section is a function `Inputs -> Section | None` in SECTIONS; None leaves it out.
"""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from cfpn.data import EXPRESSIONS, SIDE, load
from pipeline import figures, report_sweeps
from pipeline import params as parameters
from pipeline.blocks import (
    DASH,
    Cell,
    Picture,
    Section,
    Table,
    Text,
    data_url,
    flatten,
    mean_and_deviation,
    plain,
    read_json,
)
from pipeline.figures import Curve, Pixels, method_name
from pipeline.process import InputError, atomic, only_one, run
from pipeline.report_sweeps import Sweep

SPLITS = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # file name -> Usage in FER2013
EXAMPLES = 12  # faces in a row of examples
AUDIT_TITLES = {
    "rows": "Faces per split and expression",
    "constant_faces": "Constant faces: all pixels equal",
    "identical_faces": "Identical faces: all 2,304 pixels equal",
    "dropped": "Training faces dropped, by rule",
    "written": "Faces written per split",
    "redundant_rows_within": "faces that repeat an earlier one of the same split",
    "rows_with_a_copy_in": "faces of a split (column) with a copy in another (row)",
}
YARDSTICKS = (
    ("Random convolutional features", "60.0", "Bergstra & Cox 2013"),
    ("People", "65 ± 5", "Goodfellow et al. 2013"),
    ("Winner of the 2013 challenge", "71.2", "Tang 2013"),
    ("Inception / ResNet / VGG from scratch", "71.6 / 72.4 / 72.7", "Pramerdorfer & Kampel 2016"),
    ("Single VGG", "73.28", "Khaireddin & Chen 2021; their code chooses the epoch on PrivateTest"),
    ("Ensemble of seven networks", "76.8", "Pham et al. 2020; claims above 77 use extra data or were not reproduced"),
)


class Split(NamedTuple):
    """pixels (n, 48, 48) uint8, labels (n,), rows (n,): row numbers in the CSV."""

    pixels: Pixels
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


class Run(NamedTuple):
    """What is known of one training; evaluation and predictions are None before the evaluate stage."""

    name: str
    method: str
    seed: int
    training: dict[str, Any]
    history: pd.DataFrame
    evaluation: dict[str, Any] | None
    predictions: pd.DataFrame | None

    @property
    def collapsed(self) -> bool:
        """Whether training or evaluation found it at the share of the largest class."""
        return bool(self.training.get("collapsed") or (self.evaluation or {}).get("collapsed"))


class Inputs(NamedTuple):
    """All that the sections read; settings is params.yaml with the profile's part merged in."""

    settings: dict[str, Any]
    splits: dict[str, Split]
    audit: dict[str, Any] | None
    runs: list[Run]
    transforms: dict[str, Pixels]
    bench: dict[str, Any] | None
    sweeps: list[Sweep]

    @property
    def methods(self) -> list[str]:
        """Methods with at least one run, in the order of params.yaml."""
        return list(dict.fromkeys(one.method for one in self.runs))

    @property
    def generated(self) -> bool:
        """Whether the faces are those that the sample stage draws."""
        return Path(str(self.settings["source"])).name.startswith("sample")

    def of(self, method: str) -> list[Run]:
        """The runs of a method."""
        return [one for one in self.runs if one.method == method]


def report(out: Path, inputs: Inputs) -> None:
    """Write index.html and the pictures into `out`: all of them or none."""
    sections = [section for build in SECTIONS if (section := build(inputs)) is not None]
    pictures = [block for section in sections for block in section.blocks if block.kind == "picture"]
    page = render(inputs, sections)
    with only_one(out), ExitStack() as outputs:
        for picture in pictures:
            outputs.enter_context(atomic(out / picture.name)).write_bytes(picture.content)
        outputs.enter_context(atomic(out / "index.html")).write_text(page, encoding="utf-8", newline="\n")


def render(inputs: Inputs, sections: Sequence[Section]) -> str:
    """The page; texts are escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        inputs=inputs, sections=sections, cards=cards(inputs), alerts=list(alerts(inputs))
    )


def read_inputs(arguments: argparse.Namespace) -> Inputs:
    """Read everything; raises InputError for what is missing and needed, or damaged."""
    settings = parameters.merged(parameters.read(arguments.params))
    audit_path = arguments.splits / "audit.json"
    return Inputs(
        settings={"source": "?"} | settings,
        splits={name: read_split(arguments.splits / f"{name}.parquet") for name in SPLITS},
        audit=read_json(audit_path) if audit_path.exists() else None,
        runs=read_runs(arguments.runs, arguments.evaluations, settings),
        transforms=read_transforms(arguments.augmented) if arguments.augmented.exists() else {},
        bench=read_json(arguments.bench) if arguments.bench.exists() else None,
        sweeps=report_sweeps.read(arguments.sweeps, arguments.splits, arguments.augmented) if arguments.sweeps else [],
    )


def read_split(path: Path) -> Split:
    """A split's faces; raises InputError where there is none."""
    try:
        faces = load(path)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected a split written by the ingest stage") from error
    return Split(*(tensor.numpy() for tensor in faces))


def read_runs(folder: Path, evaluations: Path, settings: Mapping[str, Any]) -> list[Run]:
    """The runs that params.yaml names, in its order; without a `run` there, all. Raises InputError where none is."""
    present = sorted(path.name for path in folder.glob("*-*") if (path / "metrics.json").exists())
    wanted = settings.get("run")
    names = [f"{method}-{seed}" for method in wanted["methods"] for seed in wanted["seeds"]] if wanted else present
    ignored = sorted(set(present) - set(names))
    if ignored:
        print(f"note: params.yaml does not name these runs, left out: {', '.join(ignored)}", file=sys.stderr)
    runs = [read_run(folder / name, evaluations / name) for name in names if name in present]
    if not runs:
        raise InputError(
            f"{folder}: no finished run; looked for metrics.json in {', '.join(names) or '<method>-<seed>'}"
        )
    return runs


def read_run(folder: Path, evaluation: Path) -> Run:
    """One run and, if it has been evaluated, what came out."""
    method, _, seed = folder.name.rpartition("-")
    if not seed.isdigit():
        raise InputError(f"{folder}: expected a name like nbp-0: method, hyphen, seed")
    evaluated = (evaluation / "metrics.json").exists()
    try:
        history = pd.read_csv(folder / "history.csv")
        predictions = pd.read_parquet(evaluation / "predictions.parquet") if evaluated else None
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{folder}: history or predictions: {error}") from error
    if "epoch" not in history:
        raise InputError(f"{folder / 'history.csv'}: no column epoch, found {', '.join(history.columns[:5])}")
    training = read_json(folder / "metrics.json")
    scores = read_json(evaluation / "metrics.json") if evaluated else None
    return Run(folder.name, method, int(seed), training, history, scores, predictions)


def read_transforms(path: Path) -> dict[str, Pixels]:
    """The variants (48, 48) of the first source face by transform, in the order of the file."""
    result: dict[str, Pixels] = {}
    try:
        file = pq.ParquetFile(path)
        source = None
        for batch in file.iter_batches(1024, columns=["pixels", "transform", "row"]):
            rows = batch["row"].to_numpy()
            source = rows[0] if source is None else source
            for i in np.flatnonzero(rows == source):
                pixels = np.frombuffer(batch["pixels"][i].as_py(), np.uint8).reshape(SIDE, SIDE)
                result[batch["transform"][i].as_py()] = pixels
            if result and not (rows == source).any():
                break
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"{path}: {error}; expected the file of the augment stage") from error
    return result


def learnt(inputs: Inputs) -> str:
    """The faces of the training, in words."""
    training, count = inputs.settings.get("train", {}), len(inputs.splits["train"].labels)
    augmented = training.get("faces") == "augmented"
    count = count * len(inputs.transforms) if augmented else count
    count = min(count, training.get("limit") or count)
    return f"{'Training, augmented' if augmented else 'Training'} ({count:,} faces)"


def cards(inputs: Inputs) -> list[tuple[str, str, str]]:
    """Per method: name, mean test accuracy, and how sure it is."""
    result = []
    for method in inputs.methods:
        scores = [one.evaluation for one in inputs.of(method) if one.evaluation]
        values = [score["accuracy"] for score in scores]
        if len(values) == 1:
            below = f"± {100 * scores[0]['accuracy_standard_error']:.1f} points, standard error"
        else:
            below = f"mean of {len(values)} seeds, {percent(min(values))} to {percent(max(values))}" if values else ""
        result.append((method_name(method), percent(np.mean(values)) if values else DASH, below))
    return result


def alerts(inputs: Inputs) -> Iterator[Text]:
    """What a reader has to know before any number."""
    if inputs.generated:
        yield Text(
            "The faces on this page are generated: drawn by the sample stage in FER2013's layout so that the workflow "
            "runs without the real data. The numbers show that the workflow works; they are not FER2013 results.",
            "note",
        )
    for one in inputs.runs:
        if one.collapsed:
            yield Text(f"{one.name} has collapsed: {collapse(one)}. It has learnt nothing of use.", "warning")


def collapse(one: Run) -> str:
    """The numbers of a collapsed run."""
    if not (one.evaluation or {}).get("collapsed"):
        return "in training its validation accuracy stands at the share of the largest class"
    accuracy, majority = (percent(one.evaluation[name]) for name in ("accuracy", "majority_accuracy"))
    return f"test accuracy {accuracy} against {majority} for naming the largest class every time"


def results_section(inputs: Inputs) -> Section:
    """The result table, and which split did what."""
    header = ("Method", "Seed", "Parameters", "Test accuracy, %", "Without copies, %", "Macro-F1", "ECE")
    header += ("Best epoch", "Largest class, %")
    rows = [row for method in inputs.methods for row in method_rows(inputs.of(method))]
    val, test = (len(inputs.splits[name].labels) for name in ("val", "test"))
    roles = (
        f"Learnt on {learnt(inputs)}, epoch chosen on PublicTest ({val:,}), reported once on PrivateTest "
        f"({test:,}). ± is the binomial standard error of one run; for a mean it is the standard deviation over seeds."
    )
    counts = sorted({one.evaluation["test_faces_without_copies"] for one in inputs.runs if one.evaluation})
    left = f" ({', '.join(f'{count:,}' for count in counts)} are left)" if counts else ""
    copies = (
        f"Without copies leaves out the test faces of which Training holds an identical copy{left}. ECE is the "
        "expected calibration error over 15 bins. Parameters are those that predict. Largest class is what naming the "
        "most frequent expression every time scores."
    )
    return Section("Results", [Table("NBP against BP on the test split", header, rows), Text(roles), Text(copies)])


def method_rows(runs: Sequence[Run]) -> list[list[str | Cell]]:
    """A row per seed, then the mean where there are several."""
    rows = [result_row(one) for one in runs]
    scored = [one.evaluation for one in runs if one.evaluation]
    if len(scored) > 1:
        means = [
            mean_and_deviation([100 * score["accuracy"] for score in scored], 1),
            mean_and_deviation([100 * value for value in without_copies(scored)], 1),
            mean_and_deviation([score["macro_f1"] for score in scored], 3),
            mean_and_deviation([score["expected_calibration_error"] for score in scored], 3),
        ]
        cells = [method_name(runs[0].method), f"mean of {len(scored)}", "", *means, "", ""]
        rows.append([Cell(text, mark="mean") for text in cells])
    return rows


def without_copies(scored: Iterable[Mapping[str, Any]]) -> list[float]:
    """Accuracies on faces without a copy, of the runs that have any."""
    return [score["accuracy_without_copies"] for score in scored if score["accuracy_without_copies"] is not None]


def result_row(one: Run) -> list[str | Cell]:
    """One run in the result table."""
    name = Cell(f"{method_name(one.method)} – collapsed" if one.collapsed else method_name(one.method))
    start = [name._replace(mark="bad" if one.collapsed else ""), str(one.seed), f"{one.training['parameters']:,}"]
    best = f"{one.training['best_epoch']} of {one.training['epochs']}"
    scores = one.evaluation
    if scores is None:
        return [*start, DASH, DASH, DASH, DASH, best, DASH]
    without = scores["accuracy_without_copies"]
    return [
        *start,
        Cell(f"{100 * scores['accuracy']:.1f} ± {100 * scores['accuracy_standard_error']:.1f}", mark="strong"),
        DASH if without is None else f"{100 * without:.1f}",
        f"{scores['macro_f1']:.3f}",
        f"{scores['expected_calibration_error']:.3f}",
        best,
        f"{100 * scores['majority_accuracy']:.1f}",
    ]


def units_section(inputs: Inputs) -> Section | None:
    """What each unit's own classifier and their vote reach, of runs that have any."""
    runs = [one for one in inputs.runs if (one.evaluation or {}).get("accuracy_by_unit")]
    if not runs:
        return None
    names = list(dict.fromkeys(name for one in runs for name in one.evaluation["accuracy_by_unit"]))
    rows = [
        [one.name, *(percent(one.evaluation["accuracy_by_unit"].get(name)) for name in names),
         percent(one.evaluation["accuracy_of_vote"])]
        for one in runs
    ]  # fmt: skip
    title = (
        "Test accuracy of every unit's own classifier, the network's last, and of the mean of their log probabilities"
    )
    return Section("Units", [Table(title, ("Run", *names, "all together"), rows)])


def recall_section(inputs: Inputs) -> Section | None:
    """Recall per expression and run."""
    runs = [one for one in inputs.runs if one.evaluation]
    if not runs:
        return None
    rows = [[one.name, *(percent(one.evaluation["recall"].get(name)) for name in EXPRESSIONS)] for one in runs]
    counts = np.bincount(inputs.splits["test"].labels, minlength=len(EXPRESSIONS))
    rows.append(["faces in the split", *(f"{count:,}" for count in counts)])
    return Section(
        "Recall per expression", [Table("Share of each expression's test faces found", ("Run", *EXPRESSIONS), rows)]
    )


def curves_section(inputs: Inputs) -> Section:
    """Paper Fig 8."""
    majorities = [one.training.get("majority_accuracy") for one in inputs.runs]
    picture = figures.svg(figures.learning_curves(histories(inputs), majorities[0]))
    seeds = " The line is the mean over seeds, the band reaches from the least to the largest."
    caption = (
        "Accuracy and loss over epochs (paper Fig 8). Solid: validation (PublicTest), dashed: training faces while "
        "they are learnt from." + (seeds if len(inputs.runs) > len(inputs.methods) else "")
    )
    return Section("Training", [Picture("learning-curves.svg", picture, caption)])


def histories(inputs: Inputs) -> list[Curve]:
    """The histories of all runs by method."""
    return [Curve(method, [one.history for one in inputs.of(method)]) for method in inputs.methods]


def plane_section(inputs: Inputs) -> Section | None:
    """The information plane by unit, where the histories hold one."""
    curves = [curve for curve in histories(inputs) if all(figures.planes(history) for history in curve.histories)]
    if not curves:
        return None
    picture = figures.svg(figures.information_plane(curves))
    caption = (
        "Where each unit stands between input and labels, one path per unit over the epochs: open dot the first, full "
        "dot the last. The bottleneck asks a unit to move up and, for a large compression weight, to the left."
    )
    return Section("Information plane by unit", [Picture("information-plane.svg", picture, caption, len(curves) > 1)])


def confusion_section(inputs: Inputs) -> Section | None:
    """Confusion matrices and the reliability diagram."""
    runs = {one.name: one for one in inputs.runs if one.predictions is not None}
    if not runs:
        return None
    blocks = []
    for name, one in sorted(runs.items(), key=lambda item: item[1].seed):  # so that methods stand side by side
        title = f"{method_name(one.method)}, seed {one.seed}"
        picture = figures.svg(figures.confusion(confusion_matrix(one.predictions), title))
        caption = f"Confusion matrix of {name}: counts, and the share of the row."
        blocks.append(Picture(f"confusion-{name}.svg", picture, caption, wide=False))
    tables = {name: (one.method, one.predictions) for name, one in runs.items()}
    picture = figures.svg(figures.reliability(tables, inputs.methods))
    caption = (
        "Accuracy against confidence, in bins that hold 1 % of the faces or more; below the dotted line a network is "
        "too sure. A dot grows with its faces."
    )
    blocks.append(Picture("reliability.svg", picture, caption, wide=False))
    return Section("Confusion and confidence", blocks)


def confusion_matrix(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """Counts (7, 7), rows actual, columns predicted."""
    size = len(EXPRESSIONS)
    joint = predictions["label"].to_numpy(np.int64) * size + predictions["predicted"].to_numpy(np.int64)
    return np.bincount(joint, minlength=size * size).reshape(size, size)


def predictions_section(inputs: Inputs) -> Section | None:
    """Test faces with the predictions of the first run of each method, right and wrong."""
    blocks = []
    for method in inputs.methods:
        one = inputs.of(method)[0]
        if one.predictions is not None:
            caption = (
                f"{one.name}: test faces named rightly, with the confidence, and wrongly, actual → predicted. They are "
                "taken evenly over the split, not chosen."
            )
            picture = figures.png(example_faces(inputs.splits["test"], one.predictions))
            blocks.append(Picture(f"predictions-{one.name}.png", picture, caption))
    return Section("Predictions", blocks) if blocks else None


def example_faces(test: Split, predictions: pd.DataFrame) -> figures.Figure:
    """Two rows of test faces: right ones and wrong ones."""
    if predictions["row"].tolist() != test.rows.tolist():
        raise InputError("predictions.parquet: its rows are not those of test.parquet; evaluate again")
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    faces, captions, tints = [], [], []
    for chosen, tint in ((right, figures.RIGHT), (~right, figures.WRONG)):
        picked = spread(np.flatnonzero(chosen), EXAMPLES)
        for i in picked:
            actual, guess = (EXPRESSIONS[predictions[column].iloc[i]] for column in ("label", "predicted"))
            confidence = predictions[f"p{predictions['predicted'].iloc[i]}"].iloc[i]
            captions.append(f"{guess} {confidence:.0%}" if actual == guess else f"{actual}\n→ {guess}")
        blank = EXAMPLES - len(picked)
        faces += [*test.pixels[picked], *np.zeros((blank, SIDE, SIDE), np.uint8)]
        captions += [""] * blank
        tints += [tint] * EXAMPLES
    return figures.face_grid(np.stack(faces), captions, EXAMPLES, tints, ("right", "wrong"))


def spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the indices, evenly spaced."""
    if len(indices) <= count:
        return indices
    return indices[np.arange(count) * len(indices) // count]


def bench_section(inputs: Inputs) -> Section | None:
    """Speed and memory, where they have been measured."""
    if not inputs.bench or not inputs.bench.get("rows"):
        return None
    titles = {"step_ms": "Step, ms", "step_ratio": "Step, ratio", "peak_mib": "Peak memory, MiB"}
    titles |= {"peak_ratio": "Peak memory, ratio", "method": "Method", "step_ratio_quartiles": "its quartiles"}
    names = list(dict.fromkeys(name for row in inputs.bench["rows"] for name in row))
    rows = [[show(row.get(name), name) for name in names] for row in inputs.bench["rows"]]
    setting = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in inputs.bench.items() if key != "rows")
    caption = f"One training step: {setting}" if setting else "One training step"
    return Section("Speed and memory", [Table(caption, [titles.get(name, name) for name in names], rows)])


def sweeps_section(inputs: Inputs) -> Section | None:
    """Paper Figs 9 and 10, and every other sweep over parameters."""
    return report_sweeps.parameters_section(inputs.sweeps)


def networks_section(inputs: Inputs) -> Section | None:
    """Paper Fig 11 and Table II."""
    return report_sweeps.networks_section(inputs.sweeps)


def yardsticks_section(inputs: Inputs) -> Section:
    """Published accuracies beside which FER2013 results stand."""
    rows = [[name, value, source] for name, value, source in YARDSTICKS]
    table = Table("Published test accuracies on FER2013", ("Who", "Accuracy, %", "Source"), rows, (0, 2))
    note = (
        "The paper's own 0.9946 is not quoted as a test score: it stands with its training curves, and the text names "
        "no split for it."
    )
    warning = "The generated faces of this page are much easier than FER2013: do not compare."
    return Section("Published yardsticks", [table, Text(note), *([Text(warning, "note")] if inputs.generated else [])])


def data_section(inputs: Inputs) -> Section:
    """Paper Figs 4 to 7."""
    rows = [sample_row(inputs.splits[name], i, usage) for name, usage in SPLITS.items() for i in first(inputs, name, 2)]
    header = ("Serial number", "Face", "Label", "Pixels", "Usage")
    counts = {usage: np.bincount(inputs.splits[name].labels, minlength=7).tolist() for name, usage in SPLITS.items()}
    histogram = figures.svg(figures.histograms(counts))
    sevens = "The seven expressions, training faces (paper Fig 7)."
    return Section(
        "Data",
        [
            Table(f"Rows of {inputs.settings['source']} (paper Fig 4)", header, rows, range(len(header))),
            Picture("splits.png", split_samples(inputs), "Faces of each split: serial number and label (paper Fig 5)."),
            Picture("labels.svg", histogram, "Faces per expression and split, with their share (paper Fig 6)."),
            Picture("expressions.png", expression_samples(inputs), sevens, wide=False),
        ],
    )


def first(inputs: Inputs, split: str, count: int) -> range:
    """Indices of the first faces of a split."""
    return range(min(count, len(inputs.splits[split].labels)))


def sample_row(split: Split, index: int, usage: str) -> list[str | Cell]:
    """A row of the CSV as the paper shows it."""
    pixels = split.pixels[index]
    label = split.labels[index]
    start = " ".join(map(str, pixels.ravel()[:12]))
    return [str(split.rows[index]), Cell(image=face_url(pixels)), f"{label} {EXPRESSIONS[label]}", f"{start} …", usage]


def face_url(pixels: Pixels) -> str:
    """A face (48, 48) as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return data_url(buffer.getvalue(), "png")


def split_samples(inputs: Inputs) -> bytes:
    """A row of faces per split."""
    faces, captions = [], []
    for split in inputs.splits.values():
        picked = spread(np.arange(len(split.labels)), EXAMPLES)
        blank = EXAMPLES - len(picked)
        faces += [*split.pixels[picked], *np.zeros((blank, SIDE, SIDE), np.uint8)]
        captions += [f"{split.rows[i]}: {EXPRESSIONS[split.labels[i]]}" for i in picked] + [""] * blank
    return figures.png(figures.face_grid(np.stack(faces), captions, EXAMPLES, rows=list(SPLITS.values())))


def expression_samples(inputs: Inputs) -> bytes:
    """A column of training faces per expression."""
    train, each = inputs.splits["train"], 5
    faces = np.zeros((each, len(EXPRESSIONS), SIDE, SIDE), np.uint8)
    captions = [[""] * len(EXPRESSIONS) for _ in range(each)]
    for label, name in enumerate(EXPRESSIONS):
        for place, i in enumerate(spread(np.flatnonzero(train.labels == label), each)):
            faces[place, label], captions[place][label] = train.pixels[i], name
    flat = [caption for row in captions for caption in row]
    return figures.png(figures.face_grid(faces.reshape(-1, SIDE, SIDE), flat, len(EXPRESSIONS)))


def augmentation_section(inputs: Inputs) -> Section | None:
    """One face under the transforms of the augment stage."""
    if not inputs.transforms:
        return None
    faces, names = np.stack(list(inputs.transforms.values())), list(inputs.transforms)
    picture = figures.png(figures.face_grid(faces, names, len(names)))
    caption = (
        "One training face as it is and under the paper's six transforms. Validation and test faces stay as they are."
    )
    return Section("Augmentation", [Picture("augmentation.png", picture, caption, wide=False)])


def audit_section(inputs: Inputs) -> Section | None:
    """The counts of the ingest stage, whatever they are, as tables."""
    if inputs.audit is None:
        return None
    texts = [Text(text) for text in audit_highlights(inputs.audit)]
    return Section("Audit of the data", [*texts, *audit_tables(inputs.audit)])


def audit_highlights(audit: Mapping[str, Any]) -> Iterator[str]:
    """The count that flatters test scores, where the audit has it."""
    copied = audit.get("identical_faces", {}).get("rows_with_a_copy_in", {}).get("train", {}).get("test")
    total = audit.get("rows", {}).get("test", {}).get("total")
    if isinstance(copied, int) and total:
        yield (
            f"{copied:,} of {total:,} test faces ({copied / total:.1%}) have an identical copy in Training as the file "
            "was read. Splits for validation and test are never edited; the results above are therefore also given "
            "without copies."
        )


def audit_tables(audit: Mapping[str, Any]) -> Iterator[Table]:
    """One table per group of counts: single counts, then mappings of counts with a row each."""
    loose = {key: value for key, value in audit.items() if not isinstance(value, dict)}
    if loose:
        yield counts_table("Counts", loose)
    for key, value in audit.items():
        if isinstance(value, dict):
            yield from group_tables(AUDIT_TITLES.get(key, plain(key)), value)


def group_tables(title: str, group: Mapping[str, Any]) -> Iterator[Table]:
    """Tables of nested counts, one per level."""
    single = {key: value for key, value in group.items() if not isinstance(value, dict)}
    rows = {key: value for key, value in group.items() if is_counts(value)}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    columns = [name for name in SPLITS if name in columns] + [name for name in columns if name not in SPLITS]
    if single and not (rows and list(single) == ["total"]):
        yield counts_table(title, single)
    if rows and all(key in AUDIT_TITLES for key in rows):
        for key, value in rows.items():
            yield counts_table(f"{title.split(':')[0]}: {AUDIT_TITLES[key]}", value)
    elif rows:
        body = [[plain(key), *(show(row.get(name)) for name in columns)] for key, row in rows.items()]
        whole = f" ({show(single['total'])} in all)" if list(single) == ["total"] else ""
        yield Table(title + whole, ("", *map(plain, columns)), body)
    for key, value in group.items():
        if isinstance(value, dict) and not is_counts(value):
            yield from group_tables(f"{title.split(':')[0]}: {AUDIT_TITLES.get(key, plain(key))}", value)


def is_counts(value: object) -> bool:
    """Whether this is a mapping of single values."""
    return isinstance(value, dict) and not any(isinstance(inner, dict) for inner in value.values())


def counts_table(title: str, counts: Mapping[str, Any]) -> Table:
    """Single values side by side."""
    return Table(title, list(map(plain, counts)), [[show(value) for value in counts.values()]], ())


def settings_section(inputs: Inputs) -> Section:
    """The parameters behind the page."""
    chosen = {key: inputs.settings.get(key) for key in ("profile", "source", "run", "ingest", "model", "train")}
    chosen["methods"] = {name: inputs.settings.get("methods", {}).get(name) for name in inputs.methods}
    rows = [[name, value] for name, value in flatten(chosen) if value != "None"]
    return Section(
        "Settings", [Table("From params.yaml, with the profile's part", ("Parameter", "Value"), rows, (0, 1))]
    )


SECTIONS = (
    results_section,
    units_section,
    curves_section,
    recall_section,
    confusion_section,
    predictions_section,
    plane_section,
    bench_section,
    sweeps_section,
    networks_section,
    yardsticks_section,
    data_section,
    augmentation_section,
    audit_section,
    settings_section,
)


def percent(value: float | None) -> str:
    """A share in per cent, or a dash."""
    return DASH if value is None else f"{100 * value:.1f} %"


def show(value: object, name: str = "") -> str:
    """A value of a table: thousands apart, ratios with two digits, a list from first to last, a dash for none."""
    if value is None:
        return DASH
    if name.endswith("quartiles") and isinstance(value, list):
        return " to ".join(f"{quartile:.2f}" for quartile in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return method_name(str(value)) if name == "method" else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if name.endswith("ratio") or abs(value) < 10 else f"{value:,.0f}"


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report",
        description="Write one self-contained HTML page about data, training and results, and its pictures.",
        epilog="example: python -m pipeline.report results/report --runs runs --evaluations results/evaluate",
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where index.html and the pictures go")
    paths = {
        "runs": ("runs", "folder of the runs"),
        "evaluations": ("results/evaluate", "folder of their evaluations"),
        "splits": ("data/splits", "folder of the three splits and audit.json"),
        "augmented": ("data/augmented.parquet", "file of the augment stage; may be missing"),
        "bench": ("results/bench.json", "measured step times and memory; may be missing"),
        "params": ("params.yaml", "the parameters of the workflow"),
    }
    for name, (default, text) in paths.items():
        parser.add_argument(f"--{name}", type=Path, default=Path(default), help=f"{text} (default: %(default)s)")
    parser.add_argument("--sweeps", type=Path, help="folder of the tables of sweeps, to show these too")
    arguments = parser.parse_args()
    report(arguments.out, read_inputs(arguments))
    print(arguments.out / "index.html")


if __name__ == "__main__":
    run(main)
