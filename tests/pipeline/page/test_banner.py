"""README's figure shows what the parameters and the study say."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.page import banner
from pipeline.page.figures import WRONG
from pipeline.runs import study

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def drawn() -> Figure:
    return banner.banner(ROOT / "params.yaml", study.read(ROOT / "docs/study/main.csv"))


def test_a_red_bar_stands_between_every_two_units(drawn: Figure) -> None:
    units, _ = banner.network(ROOT / "params.yaml")
    bars = [line for line in drawn.axes[0].lines if line.get_color() == WRONG]
    assert len(bars) == len(units) - 1 > 0


def test_every_block_of_the_network_is_named(drawn: Figure) -> None:
    text = "\n".join(one.get_text() for one in drawn.findobj(Text))
    names = ("image", "block1", "block2", "block3", "block4", "pyramid1 to 3", "classifier")
    assert [name for name in names if name not in text] == []


def test_a_curve_says_how_many_seeds_it_is_the_mean_of(drawn: Figure) -> None:
    outcomes = study.read(ROOT / "docs/study/main.csv")
    labels = [line.get_label() for line in drawn.axes[1].lines]
    seeds = {name: sum(one.method == name for one in outcomes) for name in banner.SHOWN}
    assert labels == [f"{title} ({seeds[name]} seeds)" for name, title in banner.SHOWN.items()]


@pytest.mark.parametrize("longest_first", [True, False])
def test_a_curve_ends_where_the_first_of_its_seeds_does(longest_first: bool) -> None:
    runs = [
        study.Outcome(
            "", "nbp", seed, pd.DataFrame({"epoch": range(1, n + 1), "step": 1, "val/accuracy": 0.1 * n}), {}, 1
        )
        for seed, n in enumerate((6, 3) if longest_first else (3, 6))
    ]
    axes = Figure().subplots()
    banner.draw_curves(axes, runs)
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert axes.lines[0].get_ydata() == pytest.approx([0.45] * 3)
