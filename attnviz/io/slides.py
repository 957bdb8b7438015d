"""Reads regions of whole slides with OpenSlide (the extra `slide`)."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.parts import Box, Part
from attnviz.io.size_limit import check_size
from attnviz.io.values import Opened

if TYPE_CHECKING:
    from openslide import OpenSlide

_ALONE = (".mrxs", ".vms", ".vmu", ".zvi", ".czi")
"""Endings of slides that only OpenSlide reads."""
_TIFFS = (".svs", ".ndpi", ".scn", ".bif", ".svslide")
"""Endings of slides that are TIFFs of a vendor: without OpenSlide they are read as TIFFs."""


class Slide:
    """An open slide, to read regions of its finest level.

    Attributes:
        width, height: size of the finest level in pixels.
    """

    def __init__(self, slide: "OpenSlide", path: str) -> None:
        self._slide, self._path = slide, path
        self.width, self.height = slide.dimensions

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slide.close()

    def read(self, box: Box, factor: int = 1) -> Opened:
        """Read a region, reduced by at most `factor`: from the level that is just fine enough.

        Raises:
            ImageError: the file is damaged.
        """
        x, y, width, height = box
        level = self._slide.get_best_level_for_downsample(factor) if factor > 1 else 0
        scale = self._slide.level_downsamples[level]
        size = max(1, round(width / scale)), max(1, round(height / scale))
        try:
            image = self._slide.read_region((x, y), level, size)
        except Exception as error:  # OpenSlide's own, and those of Pillow
            reason = " ".join(str(error).split())[:100]
            raise ImageError(f"{self._path}: damaged ({reason}); export it again") from error
        return Opened(image, cut=True)


def open_slide(path: str, part: Part, *, tiff_too: bool = False) -> Slide | None:
    """Open a slide; None if the file is none, or is a TIFF and OpenSlide is not installed.

    With `tiff_too`, TIFFs of any name are tried.

    Raises:
        ImageError: the file is damaged, or a slice of it was chosen.
        MissingExtraError: only OpenSlide reads it, and it is not installed.
    """
    suffix = Path(path).suffix.lower()
    if not (suffix in _ALONE or suffix in _TIFFS or tiff_too) or not Path(path).is_file():
        return None
    try:
        import openslide  # noqa: PLC0415 — the optional part attnviz[slide]
    except ImportError as error:
        if suffix in _ALONE:
            raise MissingExtraError(f"{path}: a slide", "slide") from error
        return None
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        if suffix in _ALONE:
            raise ImageError(f"{path}: not a slide that OpenSlide can read") from error
        return None
    except openslide.OpenSlideError as error:
        reason = " ".join(str(error).split())[:100]
        raise ImageError(f"{path}: truncated or damaged ({reason}); export it again") from error
    if part.slice is not None:
        slide.close()
        raise ImageError(f"{path}: --slice {part.slice}: a slide, no volume; leave out --slice")
    return Slide(slide, path)


def read_whole(slide: Slide, path: str) -> Opened:
    """Read all of a slide, if it can be drawn whole.

    Raises:
        ImageError: it is too large; the line says what to type.
    """
    x, y = (max(0, side // 2 - 1024) for side in (slide.width, slide.height))
    sides = min(2048, slide.width), min(2048, slide.height)
    advice = f"add --tile 224 (show, stats), or --region {x},{y},{sides[0]},{sides[1]}"
    check_size(slide.width * slide.height, path, advice)
    return slide.read((0, 0, slide.width, slide.height))
