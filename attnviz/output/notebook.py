"""Shows an explanation in notebooks: its sheet and its numbers."""

from base64 import b64encode
from html import escape

from attnviz.drawing.scale import scale_of
from attnviz.drawing.sheet import cells_on, heading, sheet, small
from attnviz.drawing.strip import head_ranges, strip
from attnviz.explanation.explanation import Explanation
from attnviz.output import encoding
from attnviz.output.make_record import make_record
from attnviz.output.write_pictures import Drawing
from attnviz.recording.recorded import table

LARGEST = 2000
"""Longest side of the sheet in pixels; a sheet of many layers is scaled down to it."""
_LEFT_OUT = ("image", "rows", "columns")


def png(explanation: Explanation) -> bytes:
    """The sheet, or the strip of a clip, as the bytes of a PNG.

    The colours of each head span its smallest to largest weight.
    """
    drawing = Drawing()
    style, shown = drawing.style(), small(explanation.observation.picture)
    if explanation.views > 1:
        image = strip(
            explanation,
            head_ranges(explanation, scale_of(explanation.method, drawing.scale)),
            style,
        )
    else:
        cells = cells_on(explanation, shown, drawing.ranges(explanation), style)
        image = sheet(explanation, cells, style, preview=shown)
    image.thumbnail((LARGEST, LARGEST))
    return encoding.as_image(image, "png")


def html(explanation: Explanation) -> str:
    """The sheet as HTML, and below it a table of all numbers that opens with a click."""
    caption = heading(explanation)
    data = b64encode(png(explanation)).decode()
    rows = make_record(explanation).rows()
    names = [
        name
        for name in rows[0]
        if name not in _LEFT_OUT and any(row[name] is not None for row in rows)
    ]
    headings = [name.replace("_", " ") for name in names]
    numbers = table(caption, headings, [[row[name] for name in names] for row in rows])
    return (
        f'<img alt="{escape(caption)}" style="max-width:100%" src="data:image/png;base64,{data}">'
        f"<details><summary>in numbers</summary>{numbers}</details>"
    )
