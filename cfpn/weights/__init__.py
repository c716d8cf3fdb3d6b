"""Trained networks that come with the library, one safetensors file per method.

The file's metadata say how each was trained and what it scores: `cfpn.load("nbp").about["training"]`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
BEST = "nbp"  # what `load()` gives


def named(name: str) -> Path:
    """The file of the weights with this name; raises FileNotFoundError that lists those there are."""
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no weights {name!r} come with cfpn; there are: {', '.join(names()) or 'none'}")
    return path


def names() -> list[str]:
    """Names of the weights that come with the library."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def is_name(text: str) -> bool:
    """Whether a text is a bare name, as "nbp" is, and not the path of a file."""
    return text.isidentifier()
