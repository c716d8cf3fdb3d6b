"""Pictures of the data: paper Figs 4 to 7, the transforms, and test faces with their predictions."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.page import figures
from pipeline.page.html import Cell, Picture, Section, Table, data_url, listed
from pipeline.page.inputs import SPLITS, Inputs, Pixels, Split, name_of
from pipeline.process import InputError
from pipeline.runs.records import Run

EXAMPLES = 12  # faces in a row of examples
SHOWN_PIXELS = 12  # of a row of the CSV


def data_section(inputs: Inputs) -> Section:
    """Paper Figs 4 to 7."""
    header = ("Serial number", "Face", "Label", "Pixels", "Usage")
    title = f"Rows of {inputs.settings['source']}, one of each {inputs.noun} (paper Fig 4)"
    table = Table(title, header, list(sample_rows(inputs)), range(len(header)))
    return Section("Data", [table, split_picture(inputs), label_picture(inputs), class_picture(inputs)])


def sample_rows(inputs: Inputs) -> Iterator[list[str | Cell]]:
    """A row of the source for every class, the splits taking turns; a class that no split has is left out."""
    names = list(SPLITS)
    for label in range(len(inputs.classes)):
        for name in names[label % 3 :] + names[: label % 3]:
            found = np.flatnonzero(inputs.splits[name].labels == label)
            if len(found):
                yield sample_row(inputs.splits[name], found[0], inputs.names[name])
                break


def sample_row(split: Split, index: int, usage: str) -> list[str | Cell]:
    """A row of the CSV as the paper shows it."""
    pixels, label = split.pixels[index], split.labels[index]
    name = split.about.classes[label]
    start = " ".join(map(str, pixels.ravel()[:SHOWN_PIXELS]))
    return [str(split.rows[index]), Cell(name, face_url(pixels)), f"{label} {name}", f"{start} …", usage]


def face_url(pixels: Pixels) -> str:
    """A face (channels, side, side) as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(figures.shown(pixels)).save(buffer, format="PNG")
    return data_url(buffer.getvalue(), "png")


def split_picture(inputs: Inputs) -> Picture:
    """A row of faces per split."""
    faces, captions = [], []
    for split in inputs.splits.values():
        picked = spread(np.arange(len(split.labels)), EXAMPLES)
        blank = EXAMPLES - len(picked)
        faces += [*split.pixels[picked], *np.zeros((blank, *split.pixels.shape[1:]), np.uint8)]
        captions += [f"{split.rows[i]}: {inputs.classes[split.labels[i]]}" for i in picked] + [""] * blank
    figure = figures.face_grid(np.stack(faces), captions, EXAMPLES, rows=[inputs.names[name] for name in SPLITS])
    caption = "Faces of each split: serial number and label (paper Fig 5)."
    sizes = [f"{len(split.labels):,} in {inputs.names[name]}" for name, split in inputs.splits.items()]
    return figures.picture(
        "splits.png", figure, caption, f"Up to {EXAMPLES} faces of each split; there are {listed(sizes)}."
    )


def label_picture(inputs: Inputs) -> Picture:
    """Faces per class and split."""
    size = len(inputs.classes)
    counts = {
        inputs.names[name]: np.bincount(split.labels, minlength=size).tolist() for name, split in inputs.splits.items()
    }
    train = counts[inputs.names["train"]]
    most, least = (pick(range(size), key=train.__getitem__) for pick in (max, min))
    alt = " and ".join(
        f"{inputs.classes[label]} has {what}, {train[label]:,}" for label, what in ((most, "most"), (least, "fewest"))
    )
    caption = f"Faces per {inputs.noun} and split, with their share (paper Fig 6)."
    figure = figures.histograms(counts, inputs.classes)
    return figures.picture("labels.svg", figure, caption, f"In {inputs.names['train']} {alt} faces.")


def class_picture(inputs: Inputs) -> Picture:
    """A column of training faces per class."""
    train, each = inputs.splits["train"], 5
    faces = np.zeros((each, len(inputs.classes), *train.pixels.shape[1:]), np.uint8)
    captions = [[""] * len(inputs.classes) for _ in range(each)]
    for label, name in enumerate(inputs.classes):
        for place, i in enumerate(spread(np.flatnonzero(train.labels == label), each)):
            faces[place, label], captions[place][label] = train.pixels[i], name
    flat = [caption for row in captions for caption in row]
    figure = figures.face_grid(faces.reshape(-1, *train.pixels.shape[1:]), flat, len(inputs.classes))
    count = {7: "seven"}.get(len(inputs.classes), str(len(inputs.classes)))
    noun = "expressions" if inputs.expressions else "classes"
    caption = f"The {count} {noun}, training faces (paper Fig 7)."
    alt = f"Up to {each} training faces of each of {listed(inputs.classes)}."
    return figures.picture("expressions.png", figure, caption, alt, wide=False)


def augmentation_section(inputs: Inputs) -> Section | None:
    """One face under the transforms of the augment stage."""
    if not inputs.transforms:
        return None
    faces, names = np.stack(list(inputs.transforms.values())), list(inputs.transforms)
    caption = (
        "One training face as it is and under the paper's six transforms. Validation and test faces stay as they are."
    )
    figure = figures.face_grid(faces, names, len(names))
    picture = figures.picture("augmentation.png", figure, caption, f"One face as {listed(names)}.", wide=False)
    return Section("Augmentation", [picture])


def predictions_section(inputs: Inputs) -> Section | None:
    """Test faces with the predictions of the first run of each method, right and wrong."""
    firsts = [inputs.of(method)[0] for method in inputs.methods]
    known = [(one, one.predictions) for one in firsts if one.predictions is not None]
    blocks = [predictions_picture(inputs, one, predictions) for one, predictions in known]
    return Section("Predictions", blocks) if blocks else None


def predictions_picture(inputs: Inputs, one: Run, predictions: pd.DataFrame) -> Picture:
    """Two rows of test faces of a run."""
    caption = (
        f"{name_of(one)}: test faces named rightly, with the confidence, and wrongly, actual → predicted. They are "
        "taken evenly over the split, not chosen."
    )
    right, count = int((predictions["label"] == predictions["predicted"]).sum()), len(predictions)
    alt = f"{name_of(one)} names {right:,} of {count:,} test faces rightly; examples of both kinds."
    figure = example_faces(inputs.splits["test"], predictions, one.folder)
    return figures.picture(f"predictions-{name_of(one)}.png", figure, caption, alt)


def example_faces(test: Split, predictions: pd.DataFrame, folder: Path) -> Figure:
    """Two rows of test faces, right ones and wrong ones, with the predictions of the run in `folder`."""
    if predictions["row"].tolist() != test.rows.tolist():
        raise InputError(f"{folder}: the rows of its predictions.parquet are not those of test.parquet; evaluate again")
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    faces, captions, tints = [], [], []
    for chosen, tint in ((right, figures.RIGHT), (~right, figures.WRONG)):
        picked = spread(np.flatnonzero(chosen), EXAMPLES)
        blank = EXAMPLES - len(picked)
        faces += [*test.pixels[picked], *np.zeros((blank, *test.pixels.shape[1:]), np.uint8)]
        captions += [caption_of(predictions.iloc[i], test.about.classes) for i in picked] + [""] * blank
        tints += [tint] * EXAMPLES
    return figures.face_grid(np.stack(faces), captions, EXAMPLES, tints, ("right", "wrong"))


def caption_of(row: pd.Series, classes: Sequence[str]) -> str:
    """A prediction below its face."""
    actual, guess = classes[int(row["label"])], classes[int(row["predicted"])]
    return f"{guess} {row.filter(regex=r'^p[0-9]+$').max():.0%}" if actual == guess else f"{actual}\n→ {guess}"


def spread(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the indices, evenly spaced."""
    if len(indices) <= count:
        return indices
    return indices[np.arange(count) * len(indices) // count]
