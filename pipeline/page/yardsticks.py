"""Published test accuracies on FER2013."""

from pipeline.page.html import Section, Table, Text
from pipeline.page.inputs import Inputs

YARDSTICKS = (
    ("Random convolutional features", "60.0", "Bergstra & Cox 2013"),
    ("People", "65 ± 5", "Goodfellow et al. 2013"),
    ("Winner of the 2013 challenge", "71.2", "Tang 2013"),
    ("Inception / ResNet / VGG from scratch", "71.6 / 72.4 / 72.7", "Pramerdorfer & Kampel 2016"),
    ("Single VGG", "73.28", "Khaireddin & Chen 2021; their code chooses the epoch on PrivateTest"),
    ("Ensemble of seven networks", "76.8", "Pham et al. 2020; claims above 77 use extra data or were not reproduced"),
)


def yardsticks_section(inputs: Inputs) -> Section | None:
    """Published accuracies beside which FER2013 results stand."""
    if not inputs.expressions:
        return None
    rows = [[name, value, source] for name, value, source in YARDSTICKS]
    table = Table("Published test accuracies on FER2013", ("Who", "Accuracy, %", "Source"), rows, (0, 2))
    note = (
        "The paper's own 0.9946 is not quoted as a test score: it stands with its training curves, and the text names "
        "no split for it."
    )
    warning = "The generated faces of this page are much easier than FER2013: do not compare."
    return Section("Published yardsticks", [table, Text(note), *([Text(warning, "note")] if inputs.drawn else [])])
