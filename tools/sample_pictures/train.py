"""A steam train that crosses a hilly country."""

import numpy as np
from canvas import Canvas, light_up, steady
from shapes import (
    Array,
    Points,
    blur,
    box,
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

RAIL = 152.0
BRASS = rgb("#e2b95a")
IRON = rgb("#33323c")
GREEN = rgb("#2f6b4a")
SOOT, STEAM = rgb("#a3a4b3"), rgb("#eeeaf0")


def draw() -> Canvas:
    """Paint the country and the train that crosses it."""
    canvas = Canvas(760, 190, seed=5)
    _sky(canvas)
    _hills(canvas)
    _smoke(canvas)
    _track(canvas)
    for left in (96, 214, 332):
        _carriage(canvas, left)
    _tender(canvas, 450)
    _engine(canvas, 512)
    _meadow(canvas)
    return canvas


def _sky(canvas: Canvas) -> None:
    """Paint a fresh morning sky with heaped clouds."""
    canvas.pixels = ramp([(0, "#6fb0dd"), (60, "#a9d3e6"), (110, "#f2ecd2")], canvas.y)
    puff = canvas.noise((90, 34), 6) + smooth(90, 20, canvas.y) * 0.1
    cloud = smooth(0.12, 0.5, puff)
    lit = np.clip((puff - move(puff, (3, 5))) * 1.1 + 0.75, 0, 1)
    canvas.paint(cloud, mix(rgb("#b9c6d8"), rgb("#fffdf4"), lit), 0.9)


def _hills(canvas: Canvas) -> None:
    """Stack the hills, paler with distance, with fields, hedges and woods."""
    layers = (
        ("#93b3bd", 74, 210, 20, 0.0),
        ("#86ae8e", 94, 170, 15, 0.2),
        ("#8fb765", 112, 240, 12, 0.6),
        ("#79a84e", 128, 300, 7, 0.8),
    )
    for code, level, cell, swing, detail in layers:
        edge = level + swing * canvas.noise((cell, 5000), 3)[:1]
        ground = smooth(-0.5, 0.5, canvas.y - edge)
        patches = canvas.noise((46, 12), 2)
        fields = mix(rgb(code), rgb("#d9c96a"), smooth(0.25, 0.35, patches) * detail * 0.6)
        fields = mix(fields, rgb("#4f8146"), smooth(-0.3, -0.4, patches) * detail * 0.45)
        hedges = smooth(0.06, 0.02, np.abs(patches - 0.3)) * detail
        fields = mix(fields, rgb("#3f6b3a"), (hedges * 0.7).astype(np.float32))
        light = np.clip((edge - move(edge, (6, 0))) * -0.12, -0.4, 0.4)
        canvas.paint(ground, light_up(fields, np.broadcast_to(light, canvas.shape)))
        _woods(canvas, edge, detail)


def _woods(canvas: Canvas, edge: Array, detail: float) -> None:
    """Plant clumps of round trees along the top of a hill."""
    if not detail:
        return
    size = 2.2 + 3.6 * detail
    green = mix(rgb("#6f9a7a"), rgb("#3f7236"), detail)
    leaves = mix(green, rgb("#a3bd5a"), smooth(0, 1.4, canvas.noise(5, 2)) * 0.6)
    for clump in canvas.rng.random_sample(9) * 760:
        trees = []
        for shift in canvas.rng.normal(0, 14 + 8 * detail, 7):
            x = float(clump + shift)
            column = int(np.clip(x * edge.shape[1] / 760, 0, edge.shape[1] - 1))
            width = size * float(canvas.rng.uniform(0.7, 1.25))
            trees.append(oval((x, float(edge[0, column]) - width * 0.5), (width, width * 1.15)))
        canvas.solid(canvas.polygon(*trees), leaves, 2)


def _smoke(canvas: Canvas) -> None:
    """Trail the smoke back over the train."""
    puffs = canvas.rng.random_sample((56, 3))
    for share, lift, tone in puffs[np.argsort(-puffs[:, 0])]:
        x, size = 625 - 330 * share**1.3, 5 + 17 * share**0.8
        y = 70 - 46 * share**0.6 + (lift - 0.5) * (4 + 30 * share)
        puff = blur(canvas.polygon(oval((x, y), (size * 1.25, size))), 1 + 3.5 * share)
        thickness = (0.9 - 0.65 * share) * (0.8 + 0.2 * tone)
        canvas.solid(puff * np.float32(thickness), mix(SOOT, STEAM, 0.3 + 0.7 * share), size * 0.7)


def _track(canvas: Canvas) -> None:
    """Lay the rails on a bank of ballast."""
    bank = smooth(-1, 1, canvas.y - RAIL - 1 + canvas.noise(3, 2))
    canvas.paint(bank, light_up(rgb("#a39684"), np.clip(canvas.noise(1.6, 2) * 0.5, -0.5, 0.4)))
    sleepers = [box(x, RAIL + 2.5, x + 6, RAIL + 5.5) for x in range(-4, 764, 12)]
    canvas.paint(canvas.polygon(*sleepers), rgb("#5b4233"))
    canvas.paint(canvas.polygon(box(-2, RAIL, 762, RAIL + 2.4)), rgb("#5a5560"))
    canvas.paint(canvas.polygon(box(-2, RAIL, 762, RAIL + 0.8)), rgb("#d5d3d6"))
    canvas.shadow(canvas.polygon(box(98, RAIL + 3, 660, RAIL + 7)), (4, 0), 2, 0.8)


def _part(canvas: Canvas, outline: Points, colour: Array, depth: float) -> Array:
    """Paint one lit part of the train and count it as train."""
    mask = canvas.polygon(outline)
    canvas.solid(mask, colour, depth, True)
    return mask


def _drum(canvas: Canvas, outline: Points, colour: Array) -> None:
    """Paint a lying cylinder, bright above its middle and dark below."""
    mask = canvas.polygon(outline)
    top, bottom = min(y for _, y in outline), max(y for _, y in outline)
    level = (canvas.y - top) / np.float32(bottom - top)
    light = 0.55 - 3.2 * (level - 0.28) ** 2 - 0.35 * level
    canvas.paint(mask, light_up(colour, light.astype(np.float32)))
    canvas.claim(mask)


def _wheel(canvas: Canvas, x: float, radius: float, spokes: int) -> None:
    """Paint a spoked wheel that stands on the rail."""
    y = RAIL - radius
    _part(canvas, oval((x, y), (radius, radius)), IRON, 1.5)
    canvas.paint(canvas.polygon(oval((x, y), (radius - 1.6,) * 2)), rgb("#1d1b22"))
    bar = box(1.8 - radius, -0.65, radius - 1.8, 0.65)
    turned = [place(bar, (x, y), 1, 12 + 180 * i / spokes) for i in range(spokes)]
    canvas.paint(canvas.polygon(*turned), rgb("#b8453c"))
    canvas.solid(canvas.polygon(oval((x, y), (radius * 0.3,) * 2)), rgb("#b8453c"), 1)


def _coupling(canvas: Canvas, left: float) -> None:
    """Join a vehicle to the one behind it."""
    _part(canvas, box(left - 6, 137, left + 3, 140), IRON, 1)


def _carriage(canvas: Canvas, left: float) -> None:
    """Paint one carriage in red and cream."""
    right = left + 112
    if left > 100:
        _coupling(canvas, left)
    _part(canvas, box(left + 5, 138, right - 5, 145), IRON, 2)
    for x in (left + 17, left + 33, right - 33, right - 17):
        _wheel(canvas, x, 6.5, 3)
    body = _part(canvas, box(left, 99, right, 140), rgb("#a8323a"), 3)
    canvas.paint(body * smooth(119.6, 119, canvas.y), rgb("#f3e3c0"), 0.92)
    for y in (119.5, 136):
        canvas.paint(canvas.polygon(box(left, y, right, y + 1.2)), BRASS)
    roof = place(points("-3,100 -1,95 8,91.5 104,91.5 113,95 115,100"), (left, 0))
    canvas.shadow(canvas.polygon(roof) * canvas.subject, (0, 3), 1.5, 0.6)
    _part(canvas, roof, rgb("#5d606c"), 2.5)
    for x in range(3):
        _part(canvas, box(left + 22 + 30 * x, 88.5, left + 30 + 30 * x, 92), rgb("#4a4c58"), 1)
    for x in (left + 9 + 16.4 * i for i in range(6)):
        _pane(canvas, box(x, 103.5, x + 12, 117), lamp=float(canvas.rng.random_sample()))
    for x in (left + 2.5, right - 8.0):
        canvas.paint(canvas.polygon(box(x, 103, x + 5.5, 136)), rgb("#7d232b"), 0.6)
        canvas.paint(canvas.polygon(box(x + 4, 122, x + 5, 125)), BRASS)


def _pane(canvas: Canvas, outline: Points, lamp: float) -> None:
    """Glaze one window, some with a lamp behind and all with the sky in them."""
    glass = canvas.polygon(outline)
    top = min(y for _, y in outline)
    canvas.paint(smooth(0.2, 0.6, blur(glass, 0.7)), rgb("#7a4a34"))
    deep = mix(rgb("#2c4358"), rgb("#7d6a4a"), lamp * 0.6)
    canvas.paint(glass, rgb("#cfe6ee"))
    canvas.paint(glass * smooth(top - 4, top + 9, canvas.y), deep)
    streak = smooth(1.2, 0.4, np.abs((canvas.x - outline[0][0]) - 7 + (canvas.y - top) * 0.6))
    canvas.paint(glass * streak, rgb("#ffffff"), 0.5)


def _tender(canvas: Canvas, left: float) -> None:
    """Paint the tender, heaped with coal."""
    _coupling(canvas, left)
    heap = place(points("4,112 10,101 20,96 32,97 44,103 52,112"), (left, 0))
    coal = canvas.noise(3.5, 3)
    lumps = np.clip((coal - move(coal, (0.8, 0.8))) * 1.6, -0.6, 0.6)
    mask = smooth(0.35, 0.6, blur(canvas.polygon(spline(heap)), 0.8) + coal * 0.14)
    canvas.paint(mask, light_up(rgb("#3a3842"), lumps))
    canvas.claim(mask)
    _part(canvas, box(left + 3, 137, left + 53, 145), IRON, 2)
    for x in (left + 11, left + 28, left + 45):
        _wheel(canvas, x, 7.5, 4)
    _part(canvas, box(left, 107, left + 56, 139), GREEN, 3)
    _lining(canvas, (left + 5, 112, left + 51, 134))


def _lining(canvas: Canvas, edges: tuple[float, float, float, float]) -> None:
    """Draw the thin brass frame of a painted panel."""
    left, top, right, bottom = edges
    bars = (
        box(left, top, right, top + 1),
        box(left, bottom - 1, right, bottom),
        box(left, top, left + 1, bottom),
        box(right - 1, top, right, bottom),
    )
    canvas.paint(canvas.polygon(*bars), BRASS, 0.9)


def _engine(canvas: Canvas, left: float) -> None:
    """Paint the engine, which pulls to the right."""
    _coupling(canvas, left)
    _part(canvas, box(left + 2, 133, left + 136, 140), IRON, 2)
    _part(canvas, place(points("112,139 134,139 140,148 122,148"), (left, 0)), IRON, 2)
    for x in (left + 14, left + 41, left + 68):
        _wheel(canvas, x, 12.5, 5)
    for x in (left + 96, left + 114):
        _wheel(canvas, x, 7, 4)
    _rods(canvas, left)
    _cab(canvas, left)
    _boiler(canvas, left)


def _rods(canvas: Canvas, left: float) -> None:
    """Join the driving wheels to the cylinder."""
    rod = canvas.stroke([(left + 14, 142), (left + 68, 142)], [2.6])
    piston = canvas.stroke([(left + 68, 142), (left + 104, 137)], [2.2])
    canvas.solid(np.maximum(rod, piston), rgb("#c9c8cf"), 0.8, True)
    _drum(canvas, box(left + 98, 130, left + 122, 142), mix(GREEN, IRON, 0.2))


def _cab(canvas: Canvas, left: float) -> None:
    """Paint the driver's cab and its roof."""
    _part(canvas, box(left, 97, left + 36, 136), GREEN, 3)
    _lining(canvas, (left + 4, 117, left + 32, 132))
    for x in (left + 5, left + 20):
        _pane(canvas, box(x, 102, x + 11, 113), lamp=0.2)
    roof = place(points("-5,98 -3,93 8,89 28,89 40,93 42,98"), (left, 0))
    _part(canvas, spline(roof), IRON, 2.5)


def _boiler(canvas: Canvas, left: float) -> None:
    """Paint the boiler with dome, chimney, bands, buffers and lamp."""
    chimney = points("107,104 109,84 105,76 123,76 119,84 121,104")
    _part(canvas, place(chimney, (left, 0)), IRON, 3)
    _part(canvas, box(left + 103.5, 73.5, left + 124.5, 77.5), BRASS, 1.2)
    _part(canvas, oval((left + 76, 99), (10, 13)), BRASS, 4)
    _part(canvas, box(left + 51, 92, left + 57, 104), BRASS, 1.5)
    _drum(canvas, box(left + 34, 101, left + 104, 134), GREEN)
    _drum(canvas, box(left + 100, 99.5, left + 128, 135), IRON)
    _part(canvas, oval((left + 128, 117), (4, 17)), rgb("#3d3c48"), 2)
    for x in (46, 66, 88):
        _drum(canvas, box(left + x, 100.6, left + x + 2, 134.4), BRASS)
    _part(canvas, box(left + 126, 130, left + 137, 139), rgb("#a8323a"), 1.5)
    _part(canvas, box(left + 136, 131.5, left + 143, 135), IRON, 1)
    _part(canvas, box(left + 142, 129, left + 144.5, 137.5), IRON, 0.8)
    _part(canvas, oval((left + 130, 97), (4, 4)), BRASS, 1.5)
    _part(canvas, box(left + 127.5, 99, left + 130.5, 103), IRON, 0.8)
    canvas.paint(canvas.polygon(oval((left + 131, 97), (2.2, 2.6))), rgb("#fff8d8"))


def _meadow(canvas: Canvas) -> None:
    """Grow grass and flowers in front of the bank."""
    edge = RAIL + 12 + canvas.noise((80, 4000), 3)[:1] * 3
    ground = smooth(-0.5, 0.5, canvas.y - edge)
    tone = canvas.noise((40, 8), 5)
    canvas.paint(ground, ramp([(-1, "#4d7d34"), (0, "#6b9a3f"), (1, "#9dbb55")], tone))
    canvas.fur(ground, steady((0.2, -1)), count=9000, length=5.5, jitter=0.16)
    for code in ("#e8564e", "#f7f1df", "#f2c84a"):
        spots = canvas.rng.random_sample((40, 2)) * (760, 20) + (0, RAIL + 15)
        blooms = canvas.polygon(*(oval((x, y), (1.3, 1.1)) for x, y in spots))
        canvas.paint(blooms, rgb(code), 0.95)
