"""The room the cat sits in: wallpaper, a window with its curtain, a sill, a plant and wool."""

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
    move,
    oval,
    place,
    points,
    ramp,
    rgb,
    smooth,
    spline,
)

SILL_TOP = 236.0
LEAF = points("0,0 3.2,-4 2.6,-9 0,-13 -2.6,-9 -3.2,-4")


def draw_room(canvas: Canvas) -> None:
    """Paint everything behind and beside the cat, far things first."""
    _wallpaper(canvas)
    _window(canvas)
    _curtain(canvas)
    _sill(canvas)
    _plant(canvas, (66, 262))
    _wool(canvas, (150, 276))
    _cushion(canvas, (340, 284))


def _wallpaper(canvas: Canvas) -> None:
    """Cover the wall with rows of sprigs, lit from the window."""
    grain = canvas.noise(90, 5)
    canvas.pixels = ramp([(-1, "#2f6166"), (0, "#3b7274"), (1, "#478182")], grain)
    sprigs = [
        leaf
        for column in range(12)
        for row in range(-1, 6)
        for leaf in _sprig((column * 42 + 6, row * 58 + 20 + 29 * (column % 2)))
    ]
    canvas.paint(canvas.polygon(*sprigs), rgb("#8db5a4"), 0.42)
    dots = [
        oval((column * 42 + 6, row * 58 - 12 + 29 * (column % 2)), (2.4, 2.4))
        for column in range(12)
        for row in range(7)
    ]
    canvas.paint(canvas.polygon(*dots), rgb("#e5c58d"), 0.55)
    distance = np.hypot(canvas.x - 170, (canvas.y - 90) * np.float32(1.3))
    canvas.glow(np.exp(-((distance / 150) ** 2)), rgb("#ffd79a"), 0.20)
    canvas.paint(smooth(200, 430, distance), rgb("#12303c"), 0.45)


def _sprig(root: Point) -> list[list[Point]]:
    """Give the outlines of one upright twig with five leaves."""
    turns = [(0.0, -15.0, 0.0), (-1, -6, -52), (1, -6, 52), (-1, 4, -58), (1, 4, 58)]
    leaves = [place(spline(LEAF, steps=5), (root[0] + x, root[1] + y), 1, a) for x, y, a in turns]
    return [*leaves, box(root[0] - 0.6, root[1] - 16, root[0] + 0.6, root[1] + 14)]


def _window(canvas: Canvas) -> None:
    """Open a window on an evening garden in soft focus."""
    glass = canvas.polygon(box(14, -4, 186, 216))
    sky = ramp([(0, "#8fc3dc"), (90, "#d9e6d4"), (150, "#fde3b0")], canvas.y)
    sky = mix(sky, rgb("#fffdf2"), smooth(0.1, 0.9, canvas.noise((70, 24), 5)) * 0.8)
    canvas.paint(glass, sky)
    hills = [("#a9c2a0", 132, 60, 14), ("#7fa878", 158, 38, 9), ("#5d8f5f", 186, 26, 7)]
    for code, level, cell, swing in hills:
        edge = canvas.noise((cell, 400), 3) * swing + level
        leaves = canvas.noise(9, 3) * 3.5
        hill = smooth(-2.5, 2.5, canvas.y - edge + leaves) * glass
        canvas.paint(hill, mix(rgb(code), rgb("#dfe6a4"), smooth(0, 1.3, canvas.noise(7, 3))))
    canvas.glow(glass * np.exp(-np.hypot(canvas.x - 60, canvas.y - 80) / 70), rgb("#fff0c0"), 0.3)
    wood = rgb("#efe3cf")
    bars = (box(6, -8, 16, 226), box(96, -8, 103, 220), box(184, -8, 194, 226))
    frame = canvas.polygon(*bars, box(6, 98, 194, 104), box(2, 216, 198, 228))
    canvas.shadow(frame, (2, 3), 2, 0.5)
    canvas.solid(frame, wood, 2.5)


def _curtain(canvas: Canvas) -> None:
    """Hang a linen curtain, its folds wider towards the hem."""
    outline = spline(
        points("168,-30 214,-30 216,60 222,140 226,226 196,231 160,227 166,130 170,50")
    )
    cloth = canvas.polygon(outline)
    canvas.shadow(cloth, (9, 4), 6, 0.5)
    across = (canvas.x - 192) / (23 + canvas.y * np.float32(0.045))
    folds = np.sin(across * 8.5 + np.sin(canvas.y / 60)) * 0.5 + np.sin(across * 19) * 0.16
    weave = canvas.noise((1.2, 3), 2) * 0.05
    tone = folds - across * 0.35 + weave
    colour = ramp([(-0.9, "#9c7f70"), (-0.2, "#d9bfa2"), (0.4, "#f4e4c8"), (1, "#fff6e2")], tone)
    canvas.paint(cloth, colour)


def _sill(canvas: Canvas) -> None:
    """Lay a broad wooden board, with sunlight falling over it."""
    board = smooth(SILL_TOP - 0.4, SILL_TOP + 0.4, canvas.y)
    rings = np.sin(canvas.y * 0.9 + canvas.noise((120, 14), 3) * 5)
    grain = canvas.noise((150, 5), 5) + rings * 0.3
    wood = ramp([(-1.2, "#855536"), (0, "#ab7448"), (1.2, "#cd9a66")], grain)
    canvas.paint(board, wood)
    canvas.paint(board * smooth(SILL_TOP + 14, SILL_TOP, canvas.y), rgb("#4a2c25"), 0.55)
    for left in (40, 128):
        patch = canvas.polygon([(left, 246), (left + 66, 246), (left + 122, 322), (left + 30, 322)])
        canvas.glow(_dapple(canvas, patch) * board, rgb("#ffdd9a"), 0.24)
    canvas.paint(board * smooth(300, 520, canvas.x), rgb("#3a2230"), 0.5)
    gap = canvas.polygon(box(-2, 283.4, 482, 284.4))
    canvas.paint(gap, rgb("#4c2d20"), 0.6)


def _dapple(canvas: Canvas, patch: Array) -> Array:
    """Fill a patch of sunlight with the round spots that leaves outside let through."""
    spots = canvas.rng.random_sample((170, 3)) * (250, 80, 4.5) + (40, SILL_TOP + 6, 2.5)
    discs = canvas.polygon(*(oval((x, y), (size * 2.2, size)) for x, y, size in spots))
    return blur(discs * 0.75 + 0.25, 1.5) * blur(patch, 1.5)


def _plant(canvas: Canvas, foot: Point) -> None:
    """Stand a potted plant with arching leaves on the sill."""
    pot = place(spline(points("-24,-46 24,-46 23,-20 15,0 -15,0 -23,-20")), foot)
    canvas.shadow(canvas.polygon(oval((foot[0] + 18, foot[1]), (38, 8))), (4, 1), 5, 0.75)
    stems = points("-76,44 -48,62 -24,74 4,84 30,76 54,60 80,40")
    for turn, length in (*stems[::2], *stems[1::2]):
        _blade(canvas, (foot[0] + turn * 0.12, foot[1] - 42), turn, length)
    body = canvas.polygon(pot)
    glaze = mix(rgb("#dfe6e6"), rgb("#3f6ea0"), 0.06)
    canvas.solid(body, glaze, 12)
    for level, width in ((-14.0, 1.2), (-32, 1.2), (-23, 4.5)):
        band = canvas.stroke(place(arc((0, level), (27, 5)), foot), [width])
        canvas.paint(band * body, rgb("#2f5f97"), 0.7)
    rim = canvas.polygon(oval((foot[0], foot[1] - 46), (25, 5)))
    canvas.solid(rim, rgb("#eef0ea"), 2)
    canvas.paint(canvas.polygon(oval((foot[0], foot[1] - 46), (21, 3.4))), rgb("#3d2a22"))
    for turn, length in ((-34, 40), (38, 44), (0, 52)):
        _blade(canvas, (foot[0] + turn * 0.2, foot[1] - 45), turn, length)


def _blade(canvas: Canvas, root: Point, turn: float, length: float) -> None:
    """Paint one pointed leaf that bends over to its side."""
    bend = 10 if turn > 0 else -10
    right: Points = [(0, 0), (6, -0.35 * length), (9 + bend * 0.4, -0.6 * length)]
    left: Points = [(-8 + bend * 0.4, -0.6 * length), (-4, -0.3 * length)]
    outline = place(spline([*right, (bend, -length), *left]), root, 1, turn * 0.8)
    leaf = canvas.polygon(outline)
    canvas.shadow(leaf, (2, 4), 3, 0.35)
    green = mix(rgb("#2f7a4a"), rgb("#7fb45a"), float(canvas.rng.random_sample()))
    canvas.solid(leaf, green, 4)
    middle: Points = [(0, 0), (bend * 0.2, -0.5 * length), (bend * 0.9, -0.93 * length)]
    rib = canvas.stroke(place(spline(middle, False), root, 1, turn * 0.8), [1.4, 0.4])
    canvas.paint(rib, rgb("#c9dd9a"), 0.7)


def _wool(canvas: Canvas, centre: Point) -> None:
    """Leave a ball of wool about, with a loose end."""
    x, y = centre
    canvas.shadow(canvas.polygon(oval((x + 6, y + 19), (27, 6))), (4, 0), 3, 0.9)
    loose = place(spline(points("-4,20 -40,25 -66,18 -80,32 -118,26"), False), centre)
    thread = canvas.stroke(loose, [2.4])
    canvas.shadow(thread, (1, 2), 1, 0.7)
    canvas.solid(thread, rgb("#c2506a"), 1)
    ball = canvas.polygon(oval(centre, (23, 22)))
    canvas.solid(ball, rgb("#c2506a"), 11)
    for turn, bow in points("-50,18 -50,12 -50,6 -50,0 35,16 35,10 35,4 95,14"):
        wound = place(spline([(-24, 3), (0, bow), (24, 3)], False), centre, 1, turn)
        strand = canvas.stroke(wound, [1.2]) * ball
        canvas.paint(move(strand, (1, 1.3)) * ball, rgb("#6d2340"), 0.55)
        canvas.paint(strand, rgb("#ef93a2"), 0.6)


def _cushion(canvas: Canvas, centre: Point) -> None:
    """Put a plump velvet cushion where the cat sits."""
    half = points("0,-32 62,-30 108,-24 130,-15 138,-2 133,13 108,25 60,30 0,31")
    velvet = canvas.polygon(place(spline([*half, *mirror(half[1:-1])[::-1]]), centre))
    canvas.shadow(velvet, (7, 6), 6, 0.85)
    nap = canvas.noise((26, 9), 5)
    canvas.solid(velvet, ramp([(-1, "#3c487f"), (0, "#52619c"), (1, "#7080b6")], nap), 13)
    # Nearer rows stand wider apart, which lays the pattern flat.
    spots = [
        (x * (1 + row * 0.12) + 9 * (row % 2), row * 10 - 21)
        for row in range(4)
        for x in range(-108, 112, 18)
    ]
    dots = [oval(spot, (2.6, 1.5)) for spot in place(spots, centre)]
    canvas.paint(canvas.polygon(*dots) * velvet, rgb("#e9d6a4"), 0.6)
    seam = points("-136,-1 -122,8 -76,17 0,19 76,17 122,8 136,-1")
    edge = canvas.stroke(place(spline(seam, False), centre), [3])
    canvas.shadow(edge, (0, 3), 2, 0.8)
    canvas.solid(edge, rgb("#e3c98f"), 1.2)
