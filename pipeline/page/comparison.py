"""The paired comparison of the methods, as the compare stage wrote it."""

from pipeline.page.html import Section
from pipeline.page.inputs import Inputs


def comparison_section(inputs: Inputs) -> Section | None:
    """Nothing yet."""
    return None
