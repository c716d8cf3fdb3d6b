"""Pictures are the same bytes for the same input, and hold what they claim."""

from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import binomtest

from cfpn.schema import EXPRESSIONS
from pipeline.page import curves, figures
from pipeline.page.curves import Curve


def history(seed: int, epochs: int = 4) -> pd.DataFrame:
    """A history of NBP with two units."""
    random = np.random.default_rng(seed)
    names = ["train/loss", "train/accuracy", "val/loss", "val/accuracy"]
    names += [f"block/block{i}/{what}" for i in (1, 2) for what in ("cka_image", "cka_label")]
    columns = {name: random.random(epochs) for name in names}
    return pd.DataFrame({"epoch": range(1, epochs + 1), "step": range(10, 10 * epochs + 1, 10)} | columns)


def predictions(count: int = 60) -> pd.DataFrame:
    """Predictions of random probabilities."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(7), count).astype(np.float32)
    columns = {"row": range(count), "label": random.integers(0, 7, count), "predicted": probabilities.argmax(1)}
    return pd.DataFrame(columns | {f"p{i}": probabilities[:, i] for i in range(7)})


def faces(count: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, 48, 48), np.uint8)


def sweep(tints: list[object], seeds: int = 2) -> pd.DataFrame:
    """Two epochs of a setting per tint."""
    spread = {f"val/accuracy/{how}": value for how, value in (("mean", 0.5), ("min", 0.4), ("max", 0.7))}
    rows = [
        {"setting": f"s{i}", "label": f"l{i}", "tint": tint, "epoch": epoch, "n": seeds} | spread
        for i, tint in enumerate(tints)
        for epoch in (1, 2)
    ]
    return pd.DataFrame(rows)


def best(values: list[float]) -> pd.DataFrame:
    """Accuracies at values of a parameter."""
    return pd.DataFrame({"mean": 0.5, "min": 0.4, "max": 0.7}, index=values)


DRAW: dict[str, Callable[[], Figure]] = {
    "face_grid": lambda: figures.face_grid(faces(5), ["a", "b", "c", "", "e\nf"], 3, rows=["one", "two"]),
    "histograms": lambda: figures.histograms({"Training": [1, 2, 3, 4, 5, 6, 7], "empty": [0] * 7}, EXPRESSIONS),
    "learning_curves": lambda: curves.learning_curves([Curve("nbp", [history(0), history(1)])], 0.25),
    "sweep_curves": lambda: curves.sweep_curves({"one": sweep([1, 2]), "two": sweep([2])}),
    "best_over": lambda: curves.best_over("rate", best([0.001, 0.01, 0.1])),
    "confusion": lambda: figures.confusion(np.arange(49).reshape(7, 7), EXPRESSIONS, "NBP"),
    "reliability": lambda: figures.reliability({"bp-0": ("bp", predictions())}, ["bp"]),
    "information_plane": lambda: curves.information_plane([Curve("nbp", [history(0)]), Curve("other", [history(1)])]),
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
    texts = [text.get_text() for text in figures.confusion(matrix, EXPRESSIONS, "NBP").axes[0].texts]
    assert texts[:3] == ["1,500\n75%", "500\n25%", "·"]
    assert len(texts) == 49


def test_the_band_reaches_from_the_least_to_the_largest_seed() -> None:
    runs = [history(seed) for seed in range(3)]
    axes = curves.learning_curves([Curve("nbp", runs)], None).axes[0]
    values = np.stack([run["val/accuracy"] for run in runs])
    assert axes.lines[0].get_ydata() == pytest.approx(values.mean(0))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((values.min(), values.max()))


def test_histories_of_different_length_and_columns_are_drawn() -> None:
    drawn = [Curve("nbp", [history(0, 1)]), Curve("bp", [history(1, 5)[["epoch", "val/accuracy"]]])]
    axes = curves.learning_curves(drawn, 0.25).axes
    assert [len(panel.lines) for panel in axes] == [4, 2]


@pytest.mark.parametrize("count", [2, 8, 14])
def test_lines_of_learning_curves_are_told_apart_and_many_are_named_beside_the_panels(count: int) -> None:
    names = ["nbp", "bp", *(f"other{i}" for i in range(count - 2))]
    axes = curves.learning_curves([Curve(name, [history(0)]) for name in names], None, splits=["val"]).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes[0].lines}) == count
    inside, beside = axes[0].get_legend(), axes[1].get_legend()
    assert (inside is None, beside is None) == (count > 8, count <= 8)
    assert len((inside or beside).get_texts()) == count


def test_units_of_the_information_plane_need_both_columns() -> None:
    table = history(0).drop(columns="block/block2/cka_label")
    assert curves.blocks(table) == ["block1"]
    assert curves.blocks(history(0)) == ["block1", "block2"]


def test_a_histogram_shows_every_expression_with_count_and_share() -> None:
    axes = figures.histograms({"Training": [0, 0, 0, 3000, 1000, 0, 0]}, EXPRESSIONS).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(EXPRESSIONS)
    assert axes.texts[3].get_text().split() == ["3,000", "75.0%"]


@pytest.mark.parametrize("name", ["$_$", "$x$", "a$", "$a$b$"])
def test_a_class_is_drawn_by_its_own_letters_and_not_as_mathematics(name: str) -> None:
    tables = {"train": [3, 4]}
    drawn = (figures.histograms(tables, [name, "b"]), figures.confusion(np.ones((2, 2), np.int64), [name, "b"], "t"))
    for figure in drawn:
        assert f"<!-- {name} -->".encode() in figures.svg(figure)
    grid = figures.face_grid(np.zeros((1, 1, 48, 48), np.uint8), [name], 1, rows=[name])
    assert all(text.get_text() == name.replace("$", r"\$") for text in grid.axes[0].texts)


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


def test_a_setting_is_a_line_with_its_label_and_a_band_where_there_are_several_seeds() -> None:
    axes = curves.sweep_curves({"": sweep(["a", "b"]), "one seed": sweep(["a"], 1)}).axes
    assert [[text.get_text() for text in panel.get_legend().get_texts()] for panel in axes] == [["l0", "l1"], ["l0"]]
    assert [len(panel.collections) for panel in axes] == [2, 0]
    band = axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.4, 0.7)


def test_a_setting_has_one_colour_in_all_panels() -> None:
    one, two = curves.sweep_curves({"one": sweep(["a", "b"]), "two": sweep(["b"])}).axes
    assert one.lines[1].get_color() == two.lines[0].get_color() != one.lines[0].get_color()


@pytest.mark.parametrize("tints", [[f"t{i}" for i in range(24)], list(range(12))])
def test_lines_of_many_settings_differ_in_colour_or_dash(tints: list[object]) -> None:
    lines = curves.sweep_curves({"": sweep(tints)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(tints)


@pytest.mark.parametrize(("values", "scale"), [([0.001, 0.005, 0.01], "log"), ([8, 16, 32], "linear")])
def test_a_wide_range_of_a_parameter_has_a_log_axis_and_each_value_a_tick(values: list[float], scale: str) -> None:
    axes = curves.best_over("rate", best(values)).axes[0]
    assert axes.get_xscale() == scale
    assert [float(label.get_text()) for label in axes.get_xticklabels()] == values


def test_a_bin_of_confidence_has_its_accuracy_with_wilsons_interval() -> None:
    table = pd.DataFrame({"label": [1] * 80 + [0] * 20, "predicted": 1, "p0": 0.1, "p1": 0.9})
    (row,) = figures.bins(table).to_dict("records")
    assert (row["confidence"], row["accuracy"], row["share"]) == pytest.approx((0.9, 0.8, 1.0))
    interval = binomtest(80, 100).proportion_ci(method="wilson")
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval), abs=1e-4)


def test_reliability_has_a_histogram_of_all_faces_below() -> None:
    below = figures.reliability({"bp-0": ("bp", predictions(300))}, ["bp"]).axes[1]
    assert below.patches[0].get_data().values.sum() == pytest.approx(1)


def test_panels_of_the_information_plane_share_their_axes_and_name_the_measure() -> None:
    figure = curves.information_plane([Curve(name, [history(i)]) for i, name in enumerate(("nbp", "bp", "other"))])
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in drawn}) == 1 and len(drawn) == 3
    assert "CKA with the label" in figure.get_supylabel() and "CKA with the image" in figure.get_supxlabel()


def test_units_of_the_method_stand_out_among_the_blocks() -> None:
    own = history(0).assign(**{"unit/block1/loss": 1.0})
    axes = curves.information_plane([Curve("nbp", [own])]).axes[0]
    strokes = {line.get_gid(): (line.get_linewidth(), line.get_color()) for line in axes.lines}
    assert strokes["block1"][0] > strokes["block2"][0] and strokes["block2"][1] == figures.FAINT
    assert {text.get_text(): text.get_weight() for text in axes.texts} == {"block1": "bold", "block2": "normal"}


def test_names_at_the_ends_of_paths_do_not_lie_on_each_other() -> None:
    rows = {f"block/b{i}/{what}": [0.1, 0.5] for i in range(6) for what in ("cka_image", "cka_label")}
    axes = curves.information_plane([Curve("nbp", [pd.DataFrame({"epoch": [1, 2]} | rows)])]).axes[0]
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert len(heights) == 6 and min(np.diff(heights)) > 0.04


@pytest.mark.parametrize("text", [7.5, 9.0, 20.0])
def test_a_picture_may_shrink_until_its_smallest_text_is_nine_pixels_high(text: float) -> None:
    figure = Figure(figsize=(4.7, 3))
    figure.text(0.5, 0.5, "words", size=text)
    figure.text(0.5, 0.5, " ", size=1)
    picture = figures.picture("one.svg", figure, "caption", "alt")
    assert picture.width == pytest.approx(451.2) and picture.text == pytest.approx(text * 4 / 3)
    assert 9 <= picture.least_width * picture.text / picture.width < 9.2
