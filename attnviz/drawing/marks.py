"""Where a query looks from, on its picture."""

from PIL import Image, ImageDraw

from attnviz.queries import Query


def mark(image: Image.Image, query: Query) -> None:
    """Draw a cross where a point is, or the outline of a box; of others there is nothing."""
    line, numbers = max(2, round(max(image.size) / 150)), query.numbers
    draw = ImageDraw.Draw(image)
    if len(numbers) == 2:
        x, y = (int(n) + 0.5 for n in numbers)
        for width, colour in ((2 * line, "black"), (line, "white")):
            r = 4 * line
            draw.line([(x - r, y), (x + r, y)], fill=colour, width=width)
            draw.line([(x, y - r), (x, y + r)], fill=colour, width=width)
    elif len(numbers) == 4:
        for width, colour in ((2 * line, "black"), (line, "white")):
            draw.rectangle(numbers, outline=colour, width=width)
