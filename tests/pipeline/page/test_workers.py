"""Units on several workers on the page and in docs/: pictures and tables hold what was recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.page import inputs, workers
from tests.pipeline.page.written import build, paths, write_everything, write_json

WORKERS = [
    {
        "units": ["block1"], "busy_ms": 200.0, "sent_mib": 27.04, "peak_mib": 612.3,
        "spans": [[0, 0.0, 0.2], [1, 0.2, 0.4], [2, 0.4, 0.6]],
    },
    {
        "units": ["block2", "block3"], "busy_ms": 1234.5, "sent_mib": 0.0, "peak_mib": 580.0,
        "spans": [[0, 0.2, 0.5], [1, 0.5, 0.502], [2, 0.6, 0.9]],
    },
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_everything(tmp_path)
    timing = tmp_path / "runs/nbp-0/timing.json"
    write_json(timing, json.loads(timing.read_text()) | {"workers": WORKERS})
    return tmp_path


def read(root: Path) -> inputs.Inputs:
    return inputs.read_inputs(paths(root), "2026-01-31")


def test_runs_on_one_worker_have_no_section(tmp_path: Path) -> None:
    write_everything(tmp_path)
    assert workers.workers_section(read(tmp_path)) is None


def test_the_table_holds_units_work_traffic_and_memory_of_every_worker(root: Path) -> None:
    section = workers.workers_section(read(root))
    assert section.blocks[1].rows == [
        ["NBP, seed 0", "1", "block1", "200", "27.0", "612"],
        ["NBP, seed 0", "2", "block2 and block3", "1,234", "0.0", "580"],
    ]
    assert "because gradients cross the whole network: BP." in section.blocks[-1].text


def test_the_page_shows_who_worked_when(root: Path) -> None:
    assert 'src="data:image/svg+xml' in build(root)
    assert (root / "out/workers-nbp-0.svg").read_bytes().startswith(b"<?xml")


def test_a_bar_stands_for_each_step_from_its_begin_to_its_end() -> None:
    axes = workers.gantt(WORKERS).axes[0]
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    wanted = [(place, begin, end) for place, one in enumerate(WORKERS) for _, begin, end in one["spans"]]
    assert bars == [pytest.approx(one) for one in wanted]
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "1", "3"]  # the narrow bar has no place for 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["block1", "block2 to\nblock3"]


def table(folder: Path, name: str, content: dict[str, Any]) -> list[dict[str, str]]:
    write_json(folder / f"{name}.json", content)
    header, rows = workers.TABLES[name](folder)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_ways_to_use_the_cores_are_compared_with_the_same_training_in_one_process(tmp_path: Path) -> None:
    rows = [
        {"row": "bp", "faces_per_second": 400.0, "step_ms": 320.0, "peak_mib": [500.0], "steps": 3000.0},
        {"row": "bp_ddp", "faces_per_second": 600.0, "rounds": [600.0, 1590.0, 589.6], "peak_mib": [510.0, 511.0],
         "steps": 3000.0},
        {"row": "nbp balanced:3", "faces_per_second": 300.0, "step_ms": 400.0, "peak_mib": [505.0], "steps": None},
        {"row": "nbp balanced:3 2 workers", "faces_per_second": 540.0, "step_ms": 1300.0, "workers": WORKERS,
         "peak_mib": [400.0], "steps": None},
        {"row": "nbp balanced:3 twice", "faces_per_second": 600.0, "peak_mib": [505.0, 505.0], "steps": 2000.0},
    ]  # fmt: skip
    bp, ddp, one, two, twice = table(tmp_path, "parallel", {"batch": 128, "rows": rows})
    times = "times one process"
    assert [row[times] for row in (bp, ddp, one, two, twice)] == ["1.00", "1.50", "1.00", "1.80", "2.00"]
    assert [row["faces per second"] for row in (bp, ddp)] == ["400", "600 (590 to 1,590)"]
    assert (two["of the bound, %"], two["sent in a step, MiB"]) == ("95", "27.0")
    assert [row["memory of a process, MiB"] for row in (ddp, two)] == ["510, 511", "612, 580"]
    assert [row["of the one that leads, MiB"] for row in (bp, ddp, two)] == ["–", "–", "400"]
    minutes = "minutes to the accuracy"
    assert [row[minutes] for row in (bp, ddp, two, twice)] == ["16.0", "10.7", "–", "14.2"]


def test_columns_of_what_was_not_measured_are_left_out(tmp_path: Path) -> None:
    rows = [{"row": "bp", "faces_per_second": 400.0}]
    assert table(tmp_path, "parallel", {"batch": 128, "rows": rows}) == [
        {"training": "`bp`", "faces per second": "400", "times one process": "1.00"}
    ]


MEMORY = {
    "rows": [
        {"units": "network", "workers": 1, "added": 0, "peak_mib": [100.0], "ratio": 1.0},
        {"units": "usual", "workers": 2, "added": 0, "peak_mib": [70.0, 90.4], "ratio": 0.904},
        {"units": "usual", "workers": 2, "added": 5, "peak_mib": [91.0, 80.0], "ratio": 0.3},
    ]
}


def test_memory_is_that_of_the_largest_worker_and_its_share_of_bp(tmp_path: Path) -> None:
    one, two = "1 worker, MiB (/ BP)", "2 workers, MiB (/ BP)"
    assert table(tmp_path, "memory", MEMORY) == [
        {"units": "network", one: "100 (1.00)", two: "–"},
        {"units": "usual", one: "–", two: "90 (0.90)"},
    ]


def test_memory_by_depth_has_a_column_for_each_number_of_added_blocks(tmp_path: Path) -> None:
    write_json(tmp_path / "memory.json", MEMORY)
    header, rows = workers.depth(tmp_path)
    assert header == ["units", "workers", "0 blocks added, MiB", "5 blocks added, MiB"]
    assert rows == [["network", "1", "100", "–"], ["usual", "2", "90", "91"]]


def test_the_picture_of_the_docs_needs_recorded_times(tmp_path: Path) -> None:
    write_json(tmp_path / "parallel.json", {"rows": [{"row": "nbp 2 workers"}]})
    assert workers.pictured(tmp_path) is None
    write_json(tmp_path / "parallel.json", {"rows": [{"row": "nbp 2 workers", "workers": WORKERS}]})
    assert len(workers.pictured(tmp_path).axes) == 1
