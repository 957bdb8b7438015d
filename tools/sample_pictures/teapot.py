"""A blue teapot on a checked tablecloth."""

import numpy as np
from canvas import Canvas
from shapes import (
    Array,
    Point,
    Points,
    arc,
    blur,
    box,
    mirror,
    mix,
    oval,
    place,
    points,
    ramp,
    rgb,
    smooth,
    spline,
)

EDGE = 176.0
POT: Point = (188, 172)
GLAZE = rgb("#2f7f96")
GILT = rgb("#e6c478")


def draw() -> Canvas:
    """Paint the kitchen corner and the teapot in it."""
    canvas = Canvas(400, 300, seed=23)
    _wall(canvas)
    _cloth(canvas)
    _cup(canvas, (332, 236))
    _biscuits(canvas)
    _pot_shadow(canvas)
    _handle(canvas)
    _spout(canvas)
    _body(canvas)
    _lid(canvas)
    _steam(canvas)
    return canvas


def _wall(canvas: Canvas) -> None:
    """Tile the wall in cream, below a shelf edge, lit from the left."""
    canvas.pixels = ramp([(-1, "#bd9a6c"), (1, "#d2b286")], canvas.noise(60, 5))
    row = np.floor(canvas.y / 30)
    column = np.floor((canvas.x + 22 * (row % 2)) / 44)
    tone = np.sin(row * 12.9 + column * 78.2) * 43.7
    tone = (tone - np.floor(tone)).astype(np.float32)
    canvas.pixels = mix(canvas.pixels, rgb("#a98257"), tone * 0.4)
    inside = np.minimum((canvas.x + 22 * (row % 2)) % 44, canvas.y % 30)
    outside = np.minimum(44 - (canvas.x + 22 * (row % 2)) % 44, 30 - canvas.y % 30)
    canvas.paint(smooth(2.4, 1.0, inside), rgb("#f2dcb4"), 0.7)
    canvas.paint(smooth(2.2, 0.8, outside), rgb("#7d5f47"), 0.7)
    distance = np.hypot(canvas.x - 60, canvas.y - 20)
    canvas.glow(np.exp(-distance / 150), rgb("#ffe2a8"), 0.22)
    canvas.paint(smooth(180, 460, distance), rgb("#6a4a52"), 0.6)


def _cloth(canvas: Canvas) -> None:
    """Spread a gingham cloth that runs back to the wall in perspective."""
    cloth = smooth(EDGE - 0.6, EDGE + 0.6, canvas.y)
    depth = np.float32(1) / np.clip(canvas.y - 60, 40, None)
    across, along = (canvas.x - 200) * depth * 91, depth * 30700
    across, along = across - along * np.float32(0.2), along + across * np.float32(0.2)
    weave = canvas.noise((1.5, 1), 2) * 0.07
    fabric = mix(rgb("#fbf5ea"), rgb("#e9dccb"), smooth(-1, 1, canvas.noise(50, 4)))
    for lanes in (along, across):
        stripe = smooth(-0.12, 0.12, np.sin(lanes * np.pi / 10)) * (0.52 + weave)
        fabric = mix(fabric, rgb("#c8434b"), stripe.astype(np.float32))
    canvas.paint(cloth, fabric)
    canvas.paint(cloth * smooth(EDGE + 22, EDGE, canvas.y), rgb("#5a2a3c"), 0.55)
    canvas.paint(cloth * smooth(240, 470, canvas.x), rgb("#41203a"), 0.5)
    canvas.glow(cloth * np.exp(-np.hypot(canvas.x - 40, canvas.y - 230) / 90), rgb("#ffe4b8"), 0.2)


def _cup(canvas: Canvas, centre: Point) -> None:
    """Set out a cup of tea on its saucer."""
    x, y = centre
    saucer = canvas.polygon(oval((x, y + 8), (50, 15)))
    canvas.shadow(saucer, (7, 5), 4, 0.8)
    canvas.solid(saucer, rgb("#f3ece0"), 5)
    canvas.shadow(canvas.polygon(oval((x, y + 7), (28, 8))), (5, 2), 3, 0.7)
    ear = place(spline(points("26,-28 44,-30 42,-12 22,-8"), False), centre)
    grip = canvas.stroke(ear, [6, 5, 5])
    canvas.solid(grip, rgb("#f3ece0"), 2.5)
    half = points("32,-36 31,-20 22,-2 10,6 0,7")
    bowl = canvas.polygon(place([*spline(half, False), *mirror(spline(half, False))[::-1]], centre))
    canvas.solid(bowl, rgb("#f3ece0"), 12)
    band = canvas.stroke(arc((x, y - 26), (33, 9)), [3.5])
    canvas.paint(band * bowl, GLAZE, 0.85)
    canvas.solid(canvas.polygon(oval((x, y - 36), (32, 9))), rgb("#faf5ea"), 2)
    tea = canvas.polygon(oval((x, y - 34.5), (28, 6.8)))
    canvas.paint(tea, ramp([(x - 30, "#c9782f"), (x + 30, "#7a3a1a")], canvas.x))
    canvas.paint(blur(canvas.polygon(oval((x - 9, y - 36), (9, 1.6))), 0.6), rgb("#ffe9c0"), 0.6)


def _biscuits(canvas: Canvas) -> None:
    """Leave two biscuits on the cloth."""
    for x, y in ((62, 262), (92, 271)):
        biscuit = canvas.polygon(oval((x, y), (25, 10)), oval((x, y - 4), (25, 10)))
        canvas.shadow(biscuit, (4, 4), 3, 0.75)
        canvas.solid(biscuit, rgb("#cf9552"), 4)
        top = canvas.polygon(oval((x, y - 4), (25, 10)))
        canvas.solid(top, ramp([(-1, "#d79f5c"), (1, "#edc180")], canvas.noise(5, 3)), 3)
        holes = [oval((x + u, y - 4 + v), (1.5, 0.9)) for u in (-12, 0, 12) for v in (-3.5, 0, 3.5)]
        canvas.paint(canvas.polygon(*holes), rgb("#7d4a22"), 0.7)


def _pot_shadow(canvas: Canvas) -> None:
    """Ground the teapot on the cloth."""
    canvas.shadow(canvas.polygon(oval((POT[0] + 34, POT[1] + 76), (92, 15))), (0, 0), 7, 0.75)
    canvas.shadow(canvas.polygon(oval((POT[0] + 2, POT[1] + 79), (52, 8))), (0, 0), 2.5, 0.95)


def _at(points: Points) -> list[Point]:
    """Place points given from the middle of the pot."""
    return place(points, POT)


def _mirrored(half: Points) -> list[Point]:
    """Complete an outline from its right half, given from top to bottom."""
    curve = spline(half, False)
    return [*curve, *mirror(curve)[::-1]]


def _gleam(canvas: Canvas, path: Points, width: float) -> None:
    """Lay a soft reflection along a glazed curve."""
    streak = canvas.stroke(spline(_at(path), False), [0.5, width, 0.5])
    canvas.paint(blur(streak, 0.9), rgb("#e9fbff"), 0.65)


def _handle(canvas: Canvas) -> None:
    """Bend the handle, open in the middle."""
    path = points("62,-38 84,-58 112,-54 124,-26 112,8 74,36")
    bow = canvas.stroke(spline(_at(path), False), [11, 13, 13, 12, 11, 10])
    canvas.solid(bow, GLAZE, 5, True)
    shine: Points = [(80, -58), (96, -62), (112, -55)]
    _gleam(canvas, shine, 3)


def _spout(canvas: Canvas) -> None:
    """Curve the spout up to the left."""
    upper = points("-119,-54 -104,-40 -94,-18 -82,-8 -58,-14")
    lower = points("-50,46 -84,34 -106,8 -116,-24 -131,-46")
    spout = canvas.polygon(_at([*spline(upper, False), *spline(lower, False)]))
    canvas.solid(spout, GLAZE, 8, True)
    mouth = canvas.polygon(oval(_at([(-125, -50)])[0], (7.5, 3.4), -34))
    canvas.solid(mouth, GILT, 1.5, True)
    canvas.paint(canvas.polygon(oval(_at([(-125, -50)])[0], (5, 1.9), -34)), rgb("#1c3038"))
    shine: Points = [(-118, -34), (-108, -6), (-94, 14)]
    _gleam(canvas, shine, 4)


def _body(canvas: Canvas) -> None:
    """Turn the round body, with a painted band and a window's reflection."""
    half = points("0,-62 34,-60 62,-46 80,-18 82,14 70,46 52,64 45,72 36,78 0,81")
    body = canvas.polygon(_at(_mirrored(half)))
    canvas.shadow(body * canvas.subject, (3, 0), 4, 0.6)
    canvas.solid(body, mix(GLAZE, rgb("#3f9aac"), smooth(-1, 1, canvas.noise(70, 3))), 24, True)
    _band(canvas, body)
    far = (canvas.x - POT[0]) / 82 * np.float32(0.8) + (canvas.y - POT[1]) / 82 * np.float32(0.5)
    canvas.paint(body * smooth(0.1, 1.15, far), rgb("#12303f"), 0.6)
    foot = canvas.polygon(_at([*arc((0, 70), (45, 8)), *arc((0, 76), (46, 8))[::-1]]))
    canvas.solid(foot, GILT, 1.6, True)
    bounce = blur(canvas.stroke(_at(arc((0, 56), (50, 13))), [7]), 4)
    canvas.paint(bounce * body, rgb("#e59a92"), 0.45)
    for left, right in ((-52, -43), (-41, -30)):
        pane: Points = [(left, -38), (right, -42), (right + 1, -14), (left - 3, -14)]
        canvas.paint(blur(canvas.polygon(_at(pane)), 0.9) * body, rgb("#f4fdff"), 0.75)


def _band(canvas: Canvas, body: Array) -> None:
    """Paint a cream band with flowers round the belly."""
    curve = _at(arc((0, -1), (92, 18)))
    before = canvas.pixels.copy()
    canvas.paint(canvas.stroke(curve, [24]) * body, rgb("#f7eeda"))
    for lift in (-12.0, 12.0):
        canvas.paint(canvas.stroke([(x, y + lift) for x, y in curve], [2.4]) * body, GILT)
    for turn in (-1.2, -0.78, -0.38, 0.0, 0.38, 0.78, 1.2):
        x, y = 82 * float(np.sin(turn)), 1 + 16 * float(np.cos(turn))
        narrow = float(np.cos(turn))
        round_heart = points("0,-4.4 4.2,-1.4 2.6,3.6 -2.6,3.6 -4.2,-1.4")
        spots = _at([(x + u * narrow, y + v) for u, v in round_heart])
        petals = [oval(spot, (3.2 * narrow + 0.4, 3.2)) for spot in spots]
        canvas.paint(canvas.polygon(*petals) * body, rgb("#c8434b"), 0.95)
        canvas.paint(canvas.polygon(oval(_at([(x, y)])[0], (2 * narrow + 0.3, 2))) * body, GILT)
    # The band is flat colour so far: give it the light that already lies on the glaze.
    light = before.mean(axis=2, dtype=np.float32) / np.float32(GLAZE.mean())
    changed = (np.abs(canvas.pixels - before).max(axis=2) > 0.01).astype(np.float32)
    shaded = canvas.pixels * np.clip(light * 0.55 + 0.42, 0.35, 1.08)[..., None]
    canvas.paint(changed, shaded)


def _lid(canvas: Canvas) -> None:
    """Close the pot with its lid and knob."""
    half = points("0,-82 20,-79 38,-69 46,-57 40,-52 0,-48")
    lid = canvas.polygon(_at(_mirrored(half)))
    canvas.shadow(lid * canvas.subject, (1, 4), 2.5, 0.7)
    canvas.solid(lid, GLAZE, 11, True)
    rim = canvas.stroke(_at(arc((0, -57), (45, 8))), [3.4])
    canvas.solid(rim, GILT, 1.4, True)
    neck = canvas.polygon(_at(box(-5, -90, 5, -80)))
    canvas.solid(neck, GLAZE, 3, True)
    knob = canvas.polygon(oval(_at([(0, -95)])[0], (12, 10)))
    canvas.shadow(knob * canvas.subject, (1, 3), 2, 0.5)
    canvas.solid(knob, GILT, 5, True)
    for x, y, size in ((-4, -99, 3.0), (-22, -70, 5.0)):
        spot = canvas.polygon(oval(_at([(x, y)])[0], (size, size * 0.6), -30))
        canvas.paint(blur(spot, 0.8), rgb("#ffffff"), 0.7)


def _steam(canvas: Canvas) -> None:
    """Let a little steam rise from the spout."""
    x, y = _at([(-126, -54)])[0]
    for shift, sway, width in ((0, 1, 13), (7, 0.6, 9)):
        path = [(u * sway, v) for u, v in points("0,-2 -8,-18 8,-42 -9,-68 8,-98")]
        curve = place(spline(path, False), (x + shift, y))
        plume = blur(canvas.stroke(curve, [3, width * 0.7, width, width * 0.6]), 3.5)
        wisps = plume * smooth(-0.9, 0.7, canvas.noise((14, 26), 4)) * smooth(8, 50, canvas.y)
        canvas.paint(wisps * (1 - canvas.subject), rgb("#ffffff"), 0.85)
