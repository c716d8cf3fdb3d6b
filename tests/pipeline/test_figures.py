"""Pictures are the same bytes for the same input, and hold what they claim."""

from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cfpn.data import EXPRESSIONS
from pipeline import figures
from pipeline.figures import Curve


def history(seed: int, epochs: int = 4) -> pd.DataFrame:
    """A history of NBP with two units."""
    random = np.random.default_rng(seed)
    names = ["train/loss", "train/accuracy", "val/loss", "val/accuracy"]
    names += [f"unit/block{i}/{what}" for i in (1, 2) for what in ("loss", "hsic_x", "hsic_y")]
    columns = {name: random.random(epochs) for name in names}
    return pd.DataFrame({"epoch": range(1, epochs + 1), "step": range(10, 10 * epochs + 1, 10)} | columns)


def predictions(count: int = 60) -> pd.DataFrame:
    """Predictions of random probabilities."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(7), count).astype(np.float32)
    columns = {"row": range(count), "label": random.integers(0, 7, count), "predicted": probabilities.argmax(1)}
    return pd.DataFrame(columns | {f"p{i}": probabilities[:, i] for i in range(7)})


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 48), np.uint8)


DRAW: dict[str, Callable[[], Figure]] = {
    "face_grid": lambda: figures.face_grid(faces(5), ["a", "b", "c", "", "e\nf"], 3, rows=["one", "two"]),
    "histograms": lambda: figures.histograms({"Training": [1, 2, 3, 4, 5, 6, 7], "empty": [0] * 7}),
    "learning_curves": lambda: figures.learning_curves([Curve("nbp", [history(0), history(1)])], 0.25),
    "confusion": lambda: figures.confusion(np.arange(49).reshape(7, 7), "NBP"),
    "reliability": lambda: figures.reliability({"bp-0": ("bp", predictions())}, ["bp"]),
    "information_plane": lambda: figures.information_plane([Curve("nbp", [history(0)]), Curve("other", [history(1)])]),
}


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("encode", [figures.svg, figures.png])
def test_a_picture_is_the_same_bytes_under_any_settings_of_the_user_and_holds_no_date(
    name: str, encode: Callable[[Figure], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = encode(DRAW[name]())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other", "axes.grid": True, "lines.linewidth": 9}):
        assert encode(DRAW[name]()) == one
    assert b"<dc:date>" not in one
    assert b"Software" not in one


def test_the_confusion_matrix_prints_counts_and_shares_of_the_row() -> None:
    matrix = np.zeros((7, 7), int)
    matrix[0, :2] = 1500, 500
    texts = [text.get_text() for text in figures.confusion(matrix, "NBP").axes[0].texts]
    assert texts[:3] == ["1,500\n75%", "500\n25%", "·"]
    assert len(texts) == 49


def test_the_band_reaches_from_the_least_to_the_largest_seed() -> None:
    runs = [history(seed) for seed in range(3)]
    axes = figures.learning_curves([Curve("nbp", runs)], None).axes[0]
    values = np.stack([run["val/accuracy"] for run in runs])
    assert axes.lines[0].get_ydata() == pytest.approx(values.mean(0))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((values.min(), values.max()))


def test_histories_of_different_length_and_columns_are_drawn() -> None:
    curves = [Curve("nbp", [history(0, 1)]), Curve("bp", [history(1, 5)[["epoch", "val/accuracy"]]])]
    axes = figures.learning_curves(curves, 0.25).axes
    assert [len(panel.lines) for panel in axes] == [4, 2]


def test_units_of_the_information_plane_need_both_columns() -> None:
    table = history(0).drop(columns="unit/block2/hsic_y")
    assert figures.planes(table) == ["block1"]
    assert figures.planes(history(0)) == ["block1", "block2"]


def test_a_histogram_shows_every_expression_with_count_and_share() -> None:
    axes = figures.histograms({"Training": [0, 0, 0, 3000, 1000, 0, 0]}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(EXPRESSIONS)
    assert axes.texts[3].get_text().split() == ["3,000", "75.0%"]


def test_reliability_leaves_out_bins_of_few_faces() -> None:
    table = predictions(1000)
    table.loc[0, [f"p{i}" for i in range(7)]] = [1.0, 0, 0, 0, 0, 0, 0]
    axes = figures.reliability({"bp-0": ("bp", table)}, ["bp"]).axes[0]
    confidence = table[[f"p{i}" for i in range(7)]].max(axis=1)
    counts = np.bincount(np.ceil(confidence * figures.BINS).astype(int))
    assert len(axes.lines[1].get_xdata()) == (counts >= 10).sum()


@pytest.mark.parametrize("methods", [["bp", "nbp", "eq4", "ce"], [f"m{i}" for i in range(9)]])
def test_every_method_has_a_colour_and_the_first_ones_differ(methods: list[str]) -> None:
    tints = [figures.colour(method, methods) for method in methods]
    assert len(set(tints)) == min(len(methods), 6)
