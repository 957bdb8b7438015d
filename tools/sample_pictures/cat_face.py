"""The face of the cat: ears, fur and marks, muzzle, eyes and whiskers."""

import numpy as np
from canvas import Canvas, steady
from coat import CREAM, GINGER, INK, PINK, STRIPE, ginger, stripes, symmetric
from shapes import (
    Point,
    Points,
    blur,
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

HEAD: Point = (334, 103)
TILT = -5.0


def draw_face(canvas: Canvas) -> None:
    """Paint the head, far things first."""
    _ears(canvas)
    _head(canvas)
    _muzzle(canvas)
    _eyes(canvas)
    _whiskers(canvas)


def _head_at(path: Points) -> list[Point]:
    """Place points given from the middle of the face."""
    return place(path, HEAD, 1.06, TILT)


def _on_side(path: Points, side: int, closed: bool = True) -> list[Point]:
    """Place a curve drawn for the right side of the face on either side."""
    return spline(_head_at(path if side > 0 else mirror(path)), closed)


def _ears(canvas: Canvas) -> None:
    """Paint the two pointed ears, pink and tufted inside."""
    for side in (-1, 1):
        outer = points("10,-38 24,-56 44,-74 51,-78 55,-72 60,-50 58,-14 34,-16")
        inner = points("24,-38 34,-53 48,-68 52,-58 53,-34 40,-26")
        ear = canvas.polygon(_on_side(outer, side))
        canvas.shadow(ear, (3, 3), 3, 0.4)
        canvas.solid(ear, mix(ginger(canvas), STRIPE, 0.18), 5, True)
        hollow = canvas.polygon(_on_side(inner, side))
        canvas.paint(blur(hollow, 1.2), mix(PINK, STRIPE, 0.25))
        canvas.paint(blur(hollow, 3) * hollow, PINK, 0.6)
        canvas.fur(ear, steady((0.0, -0.9)), count=900, length=3, jitter=0.08, subject=True)
        for root, tip in ((21, 30), (26, 36), (31, 41), (36, 46)):
            tuft: Points = [(root, -26), (root + 3, -42), (tip, -56 + root / 3)]
            hair = canvas.stroke(_on_side(tuft, side, False), [3.5, 0.4])
            canvas.paint(hair, CREAM, 0.75)


def _head(canvas: Canvas) -> None:
    """Paint the head with its tufted cheeks and the tabby's marks."""
    right = points("0,-45 21,-44 40,-35 53,-19 61,0 69,17 59,30 41,42 17,49")
    head = canvas.polygon(spline(_head_at(symmetric(right))))
    canvas.shadow(head, (4, 10), 6, 0.6)
    canvas.solid(head, ginger(canvas), 18, True)
    marks: list[Points] = [
        [(4, -46), (5, -36), (5, -28), (3, -20)],
        [(13, -46), (16, -36), (15, -28), (9, -21)],
        [(26, -43), (28, -36), (26, -30), (20, -24)],
        [(68, -8), (58, -3), (50, 1), (44, 3)],
        [(74, 6), (62, 9), (52, 12), (42, 12)],
        [(72, 20), (62, 21), (54, 22), (46, 20)],
        [(58, -24), (52, -20), (48, -16), (43, -12)],
    ]
    pairs = [*marks, *(mirror(mark) for mark in marks)]
    stripes(canvas, head, [_head_at(mark) for mark in pairs], 5)
    for pale in (oval((-24, 3), (17, 15)), oval((24, 3), (17, 15)), oval((0, 37), (44, 14))):
        canvas.paint(blur(canvas.polygon(_head_at(pale)), 3.5) * head, CREAM, 0.75)
    canvas.fur(head, _from_nose, count=8000, length=5, jitter=0.08, subject=True)


def _from_nose(spot: Point) -> Point:
    """Let the fur of the face stand away from the nose."""
    dx, dy = spot[0] - HEAD[0], spot[1] - HEAD[1] - 12
    size = float(np.hypot(dx, dy)) + 6
    return dx / size, dy / size


def _muzzle(canvas: Canvas) -> None:
    """Paint the muzzle, the nose and the mouth."""
    bridge = canvas.polygon(spline(_head_at(symmetric([(4, -22), (8, -4), (9, 14)]))))
    canvas.paint(blur(bridge, 2.5), mix(GINGER, CREAM, 0.35), 0.7)
    chin = blur(canvas.polygon(_head_at(oval((0, 39), (10, 7)))), 1)
    canvas.shadow(chin, (0, 2), 1.5, 0.25)
    canvas.paint(chin, CREAM)
    for side in (-1, 1):
        pad = canvas.polygon(_head_at(oval((side * 12, 26.5), (16, 12.5), side * 12)))
        canvas.shadow(pad, (0, 1.5), 1.5, 0.22)
        canvas.solid(pad, CREAM, 4)
        canvas.fur(pad, _from_nose, count=350, length=2.5, jitter=0.04)
    for side in (-1, 1):
        roots = _head_at([(side * x, y) for x, y in points("11,24 16,27 16,22 21,25")])
        canvas.paint(canvas.polygon(*(oval(root, (0.95, 0.95)) for root in roots)), INK, 0.45)
        smile: Points = [(0, 25), (side * 2.5, 31), (side * 8, 34), (side * 14, 31)]
        canvas.paint(canvas.stroke(spline(_head_at(smile), False), [1.9, 1.8, 0.8]), INK, 0.85)
    nose = canvas.polygon(spline(_head_at(symmetric(points("0,11.5 7,11 10,13.5 5,19.5 0,22")))))
    canvas.solid(nose, mix(PINK, rgb("#b8504e"), 0.3), 2)
    canvas.paint(canvas.stroke(_head_at([(0, 21), (0, 26)]), [1.8]), INK, 0.85)
    canvas.paint(blur(canvas.polygon(_head_at(oval((-2, 14.5), (3, 1)))), 0.4), rgb("#ffffff"), 0.6)


def _eyes(canvas: Canvas) -> None:
    """Paint two bright eyes with slit pupils and highlights."""
    for side in (-1, 1):
        almond = points("10,4 15,-8 25,-13.5 36,-11 41,-5 37,5.5 26,10.5 15,8.5")
        lid = canvas.polygon(_on_side(almond, side))
        canvas.paint(smooth(0.06, 0.3, blur(lid, 1.5)), INK)
        x, y = _head_at([(side * 25, -1)])[0]
        reach = np.hypot(canvas.x - x, canvas.y - y)
        iris = ramp([(0, "#f6e27a"), (6, "#c7cf52"), (12, "#6f9a3c"), (15, "#3c6a34")], reach)
        canvas.paint(lid, iris)
        slit = canvas.polygon(spline(_head_at(oval((side * 25, -1.5), (5, 11)))))
        canvas.paint(slit * lid, rgb("#120c10"))
        brow = lid * (1 - move(lid, (1, 3.3)))
        canvas.paint(blur(brow, 0.8) * lid, INK, 0.55)
        shines = ((side * 25 - 4.5, -6, 3.4), (side * 25 + 5, 4.5, 1.6))
        spots = [_head_at(oval((x, y), (size, size))) for x, y, size in shines]
        canvas.paint(canvas.polygon(*spots), rgb("#ffffff"), 0.95)


def _whiskers(canvas: Canvas) -> None:
    """Draw the long whiskers."""
    for side in (-1, 1):
        ends = ((86, 6, 16), (92, 26, 23), (82, 46, 31))
        paths: list[Points] = [
            [(side * 17, 22 + i * 3), (side * 48, start), (side * x, y)]
            for i, (x, y, start) in enumerate(ends)
        ]
        for path in paths:
            hair = canvas.stroke(spline(_head_at(path), False), [1.2, 0.9, 0.3])
            canvas.paint(hair, rgb("#fffaf0"), 0.9)
