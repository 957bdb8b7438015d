"""Fonts and colours of what is written on sheets."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"


@cache
def font(*, bold: bool, size: int = 12) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib's files, so that letters are the same on every machine."""
    found = find_spec("matplotlib")  # finds its folder without importing it (0.4 s)
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(folder / name), size)
