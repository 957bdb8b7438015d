"""A striped lighthouse on a rock at dusk."""

import numpy as np
from canvas import Canvas, light_up
from shapes import (
    Array,
    Point,
    Points,
    blur,
    box,
    mirror,
    mix,
    move,
    oval,
    place,
    points,
    ramp,
    rgb,
    smooth,
    spline,
)

HORIZON = 352.0
MIDDLE = 132.0
FOOT, GALLERY = 432.0, 178.0


def draw() -> Canvas:
    """Paint the evening, the rock and the lighthouse on it."""
    canvas = Canvas(240, 520, seed=11)
    _sky(canvas)
    _sea(canvas)
    _rock(canvas)
    _beam(canvas)
    _tower(canvas)
    _openings(canvas)
    _gallery(canvas)
    _lantern(canvas)
    _gulls(canvas)
    _surf(canvas)
    return canvas


def _sky(canvas: Canvas) -> None:
    """Paint a dusk sky whose clouds catch the low sun."""
    stops = [(0, "#26376b"), (130, "#5b5a94"), (230, "#b9799a"), (300, "#f0a58a"), (352, "#fbd591")]
    canvas.pixels = ramp(stops, canvas.y)
    sun = np.hypot(canvas.x - 38, canvas.y - 330)
    canvas.glow(np.exp(-sun / 70), rgb("#ffc76a"), 0.5)
    for cell, level, code in (((130, 34), 0.18, "#7d5f8e"), ((90, 20), 0.30, "#d98c92")):
        puff = canvas.noise(cell, 6) + 0.12 * np.sin(canvas.y / 23)
        bank = smooth(level, level + 0.45, puff) * smooth(345, 250, canvas.y)
        lit = np.clip((puff - move(puff, (2, -7))) * 1.6, -0.5, 0.6)
        canvas.paint(bank, mix(rgb(code), rgb("#ffd0a0"), np.clip(lit + 0.25, 0, 1)), 0.8)
    canvas.paint(smooth(15, 13.6, sun), rgb("#fff9e0"), 0.95)
    for x, y, size in ((22, 40, 0.9), (70, 18, 0.7), (206, 30, 1), (180, 70, 0.7), (48, 92, 0.6)):
        canvas.glow(blur(canvas.polygon(oval((x, y), (size, size))), 0.4), rgb("#ffffff"), 0.9)


def _sea(canvas: Canvas) -> None:
    """Paint the water, with the sun's path and ripples that widen towards us."""
    water = smooth(HORIZON - 0.5, HORIZON + 0.5, canvas.y)
    canvas.paint(water, ramp([(352, "#d9a08f"), (385, "#7a7fa6"), (520, "#243f68")], canvas.y))
    near = np.clip((canvas.y - HORIZON) / 168, 0.001, 1)
    swell = np.sin(np.log(near) * 24 + canvas.noise((60, 12), 4) * 5)
    swell += canvas.noise((22, 3), 4) * 1.4
    canvas.paint(water * smooth(0.5, 1.6, swell), rgb("#f2c6ac"), 0.45)
    canvas.paint(water * smooth(-0.4, -1.6, swell), rgb("#1b3157"), 0.45)
    path = np.exp(-(((canvas.x - 38) / (10 + near * 34)) ** 2)) * water
    canvas.glow(path * smooth(-0.6, 1.3, swell), rgb("#ffcf7d"), 0.6)


def _rock(canvas: Canvas) -> None:
    """Raise the rock, cracked and lit from the side of the sun."""
    outline = points(
        "0,500 14,478 34,470 46,452 66,444 80,428 104,424 132,421 166,424 "
        "186,432 198,446 220,452 238,470 262,482 262,540 0,540"
    )
    bulk = canvas.polygon(outline)
    rough = smooth(0.4, 0.6, blur(bulk, 2.5) + canvas.noise(11, 4) * 0.28)
    crags = canvas.noise((26, 20), 6) + np.abs(canvas.noise((50, 16), 5)) * 1.2
    light = (crags - move(crags, (1.4, 1.8))) * 1.5
    stone = ramp([(420, "#8a7884"), (455, "#6d6478"), (520, "#3b3f58")], canvas.y)
    canvas.shadow(rough, (4, 5), 5, 0.6)
    canvas.paint(rough, light_up(stone, np.clip(light, -0.7, 0.45)))
    grass = rough * smooth(0.0, 0.6, canvas.noise((30, 9), 4)) * smooth(452, 434, canvas.y)
    canvas.paint(grass, light_up(rgb("#6f7f4e"), np.clip(light, -0.5, 0.4)), 0.85)


def _half_width(y: Array) -> Array:
    """Say how wide the tower is, from its middle, at each height."""
    share = np.clip((y - GALLERY) / (FOOT - GALLERY), 0, 1)
    half: Array = (19 + 15 * share**1.6).astype(np.float32)
    return half


def _round(canvas: Canvas, half: Array | float) -> Array:
    """Light an upright cylinder from the left."""
    across = np.clip((canvas.x - MIDDLE) / half, -1, 1)
    light: Array = (0.32 - 0.55 * (across + 0.35) ** 2 - 0.18 * across).astype(np.float32)
    return light


def _tower(canvas: Canvas) -> None:
    """Build the tapering tower with its red and white bands."""
    heights = np.linspace(GALLERY, FOOT, 60)
    half = _half_width(heights.astype(np.float32))
    right = [(float(MIDDLE + w), float(y)) for w, y in zip(half, heights, strict=True)]
    left = [(2 * MIDDLE - x, y) for x, y in right]
    tower = canvas.polygon([*right, *left[::-1]], oval((MIDDLE, FOOT), (34, 7)))
    canvas.shadow(tower * smooth(FOOT - 30, FOOT, canvas.y), (12, 4), 5, 0.9)
    # The eye looks slightly up at the tower, so the bands bow upwards in the middle.
    across = (canvas.x - MIDDLE) / _half_width(canvas.y)
    level = canvas.y - 5 * np.sqrt(np.clip(1 - across**2, 0, 1)) * ((canvas.y - 330) / 120)
    red = np.zeros_like(level)
    for top, bottom in ((196, 232), (268, 306), (345, 386)):
        red += smooth(top - 0.5, top + 0.5, level) * smooth(bottom + 0.5, bottom - 0.5, level)
    paint = mix(rgb("#f4ebe0"), rgb("#c23a3a"), red)
    worn = smooth(0.35, 1.2, canvas.noise((5, 26), 5))
    paint = mix(paint, rgb("#a58f86"), worn * 0.35)
    canvas.paint(tower, light_up(paint, _round(canvas, _half_width(canvas.y))))
    canvas.paint(tower * smooth(FOOT - 26, FOOT + 6, canvas.y), rgb("#5b4a5c"), 0.4)
    canvas.claim(tower)


def _openings(canvas: Canvas) -> None:
    """Cut the door and the lit windows."""
    for x, y in ((128.0, 250.0), (136.0, 326.0)):
        pane = canvas.polygon(place(points("-4.5,9 -4.5,-3 0,-9 4.5,-3 4.5,9"), (x, y)))
        canvas.solid(smooth(0.2, 0.6, blur(pane, 1.2)), rgb("#cbbfb6"), 1.5)
        canvas.paint(pane, ramp([(y - 9, "#ffe39a"), (y + 9, "#e58f3c")], canvas.y))
        bars = canvas.polygon(box(x - 0.5, y - 9, x + 0.5, y + 9), box(x - 5, y, x + 5, y + 1))
        canvas.paint(bars * pane, rgb("#4d3a44"), 0.9)
    arch = points("119,437 119,412 122,404 129,400 136,404 139,412 139,437.5")
    door = canvas.polygon(arch)
    canvas.solid(smooth(0.15, 0.5, blur(door, 1.6)) * canvas.subject, rgb("#b9aaa6"), 2)
    canvas.paint(door, light_up(rgb("#3f5f74"), np.sin(canvas.x * 1.9) * 0.12 - 0.1))
    canvas.paint(canvas.polygon(oval((135.5, 421), (1.2, 1.2))), rgb("#f0d28a"))


def _gallery(canvas: Canvas) -> None:
    """Set the gallery on its corbel round the top of the tower."""
    parts: list[tuple[list[Point], str, float]] = [
        (points("-19,186 -21,178 -30,169 30,169 21,178 19,186"), "#d9cbc2", 30),
        (box(-32, 164, 32, 170), "#4a4658", 32),
        (box(-30, 148, 30, 164), "#e9ded3", 30),
        (box(-31.5, 145, 31.5, 148.5), "#4a4658", 31),
    ]
    for outline, code, half in parts:
        part = canvas.polygon(place(outline, (MIDDLE, 0)))
        canvas.shadow(part * canvas.subject, (1, 4), 2.5, 0.6)
        canvas.paint(part, light_up(rgb(code), _round(canvas, half)))
        canvas.claim(part)
    middles = MIDDLE + 30 * np.sin(np.linspace(-1.35, 1.35, 15))
    posts = [box(float(x) - 0.6, 149, float(x) + 0.6, 164) for x in middles]
    canvas.paint(canvas.polygon(*posts), rgb("#6d6070"), 0.75)


def _lantern(canvas: Canvas) -> None:
    """Light the lantern under its dome."""
    room = canvas.polygon(box(MIDDLE - 16, 108, MIDDLE + 16, 146))
    centre = np.hypot(canvas.x - MIDDLE, (canvas.y - 128) * np.float32(0.8))
    glow = ramp([(0, "#fffef0"), (7, "#ffef9f"), (15, "#f2a94a"), (22, "#a8623f")], centre)
    canvas.paint(room, glow)
    bars = [box(MIDDLE + x - 0.8, 108, MIDDLE + x + 0.8, 146) for x in (-15.2, -9, 0, 9, 15.2)]
    canvas.paint(canvas.polygon(*bars, box(MIDDLE - 16, 126, MIDDLE + 16, 127.4)), rgb("#3f3a4c"))
    half = spline(points("0,79 7,81 14,88 18,98 20,108 0,109"), False)
    cap = canvas.polygon(place([*half, *mirror(half)[::-1]], (MIDDLE, 0)))
    rod = canvas.polygon(box(MIDDLE - 1.2, 62, MIDDLE + 1.2, 82), oval((MIDDLE, 76), (3.6, 3.6)))
    canvas.paint(rod, light_up(rgb("#5a5468"), _round(canvas, 4)))
    canvas.paint(cap, light_up(rgb("#b83a3c"), _round(canvas, 20)))
    eaves = canvas.polygon(box(MIDDLE - 21, 106, MIDDLE + 21, 110))
    canvas.paint(eaves, light_up(rgb("#4a4658"), _round(canvas, 21)))
    for part in (room, cap, rod, eaves):
        canvas.claim(part)
    canvas.glow(np.exp(-centre / 13), rgb("#ffe08a"), 0.4)


def _beam(canvas: Canvas) -> None:
    """Send the light out to both sides, fading with distance."""
    for side, reach in ((-1, 200), (1, 200)):
        cone: Points = [(MIDDLE, 126), (MIDDLE + side * reach, 82), (MIDDLE + side * reach, 150)]
        fade = np.exp(-np.abs(canvas.x - MIDDLE) / 85)
        canvas.glow(blur(canvas.polygon(cone), 4) * fade, rgb("#ffe9b0"), 0.42)


def _gulls(canvas: Canvas) -> None:
    """Let a few gulls sail by."""
    for x, y, size in ((52, 214, 13), (84, 186, 9), (196, 236, 11), (208, 108, 8), (30, 258, 7)):
        wings = place(points("-1,-.15 -.5,-.42 0,0 .45,-.5 1,-.32"), (x, y), size)
        ink = canvas.stroke(spline(wings, False), [0.5, size * 0.14, size * 0.22, size * 0.14, 0.5])
        canvas.paint(ink, rgb("#fbf3ea"))
        canvas.paint(ink * move(1 - ink, (0, -0.5)), rgb("#54507a"), 0.6)


def _surf(canvas: Canvas) -> None:
    """Break the waves at the foot of the rock."""
    edge = points("-6,500 20,496 52,503 92,499 140,506 190,500 250,506")
    foam = blur(canvas.stroke(spline(edge, False), [9]), 3) + canvas.noise((12, 6), 4) * 0.22
    canvas.paint(smooth(0.32, 0.6, foam) * smooth(488, 494, canvas.y), rgb("#f7ebe6"), 0.85)
    front = smooth(502, 512, canvas.y + canvas.noise((24, 8), 4) * 5)
    canvas.paint(front, ramp([(500, "#56709a"), (520, "#213a61")], canvas.y), 0.85)
