"""The cat: a ginger tabby on a cushion by the window."""

import numpy as np
from canvas import Canvas, Flow, light_up, relief, steady
from cat_face import draw_face
from coat import CREAM, INK, STRIPE, ginger, stripes, symmetric
from room import draw_room
from shapes import Array, Point, Points, blur, mirror, oval, place, points, rgb, smooth, spline

FLOOR: Point = (338, 285)


def draw() -> Canvas:
    """Paint the room and the cat in it."""
    canvas = Canvas(480, 320, seed=7)
    draw_room(canvas)
    _ground_shadow(canvas)
    _tail(canvas)
    _body(canvas)
    _haunches(canvas)
    _front_legs(canvas)
    _round_off(canvas)
    draw_face(canvas)
    _grade(canvas)
    return canvas


def _body_at(path: Points) -> list[Point]:
    """Place points given from the middle of the cat's seat."""
    return place(path, FLOOR)


def _ground_shadow(canvas: Canvas) -> None:
    """Ground the cat on its cushion."""
    seat = canvas.polygon(oval((FLOOR[0] + 8, FLOOR[1] - 3), (92, 13)))
    canvas.shadow(seat, (6, 2), 6, 0.9)
    canvas.shadow(seat, (0, 0), 3, 0.5)


def _tail(canvas: Canvas) -> None:
    """Curl the tail along the cushion, its tip turned up."""
    curve = points("-40,-16 -78,-14 -108,-10 -128,-22 -130,-44 -114,-56 -103,-47")
    path = spline(_body_at(curve), False, 14)
    tail = canvas.stroke(path, [30, 27, 25, 24, 23, 19, 12])
    canvas.shadow(tail, (5, 7), 4, 0.7)
    canvas.solid(tail, ginger(canvas), 8, True)
    _rings(canvas, tail, path)
    tip = canvas.stroke(path[-14:], [21, 13])
    canvas.paint(blur(tip, 1.5) * tail, CREAM, 0.9)
    canvas.fur(tail, _along(path), count=2600, length=5, jitter=0.10, subject=True)


def _rings(canvas: Canvas, tail: Array, path: Points) -> None:
    """Paint rings round the tail, each bent a little towards its tip."""
    for spot in range(8, len(path) - 14, 9):
        (x, y), (u, v) = path[spot], path[spot + 1]
        across = 14 / float(np.hypot(u - x, v - y))
        side = ((y - v) * across, (u - x) * across)
        ring = [(x - side[0], y - side[1]), (u, v), (x + side[0], y + side[1])]
        band = blur(canvas.stroke(spline(ring, False), [4, 5, 4]), 0.6)
        canvas.paint(band * tail, STRIPE, 0.75)


def _along(path: Points) -> Flow:
    """Let fur lie along a path."""
    places = np.array(path)
    steps = np.diff(places, axis=0)
    steps /= np.hypot(*steps.T)[:, None]

    def flow(spot: Point) -> Point:
        nearest = int(np.hypot(*(places[:-1] - spot).T).argmin())
        return float(steps[nearest, 0]), float(steps[nearest, 1])

    return flow


def _body(canvas: Canvas) -> None:
    """Paint the pear of the body, its stripes and its pale chest."""
    right = points("0,-166 30,-160 47,-135 57,-104 70,-70 79,-36 74,-8 46,0")
    body = canvas.polygon(spline(_body_at(symmetric(right))))
    canvas.shadow(body, (8, 4), 5, 0.55)
    canvas.solid(body, ginger(canvas), 20, True)
    bands: list[Points] = [
        [(82, y), (62, y - 9), (46, y - 4), (34, y + 6)] for y in (-48, -66, -84, -102, -119)
    ]
    sides = [*bands, *(mirror(band) for band in bands)]
    stripes(canvas, body, [_body_at(band) for band in sides], 7)
    bib = canvas.polygon(spline(_body_at(symmetric(points("0,-166 31,-150 33,-118 21,-88 8,-66")))))
    fluff = smooth(0.3, 0.75, blur(bib, 3) + canvas.noise((5, 9), 3) * 0.16)
    canvas.paint(fluff * body, CREAM, 0.95)
    canvas.fur(body, _down, count=9000, length=6, jitter=0.10, subject=True)


def _down(spot: Point) -> Point:
    """Let the fur of the body fall down and outwards."""
    return (spot[0] - FLOOR[0]) / 130, 0.95


def _haunches(canvas: Canvas) -> None:
    """Paint the folded hind legs and their feet on both sides."""
    for side in (-1, 1):
        thigh = canvas.polygon(oval((FLOOR[0] + side * 53, FLOOR[1] - 38), (30, 38), -side * 8))
        canvas.shadow(thigh, (3, -1), 4, 0.45)
        canvas.solid(thigh, ginger(canvas), 13, True)
        bands: list[Points] = [
            [(side * 86, y), (side * 70, y - 9), (side * 50, y - 6), (side * 38, y + 4)]
            for y in (-24, -40, -56)
        ]
        stripes(canvas, thigh, [_body_at(band) for band in bands], 6)
        canvas.fur(thigh, _down, count=2600, length=5, jitter=0.10, subject=True)
        _paw(canvas, (side * 52, -7), (25, 11))


def _front_legs(canvas: Canvas) -> None:
    """Paint the two straight front legs with their pale paws."""
    for side in (-1, 1):
        inner: Points = [(side * 1.5, -6), (side * 2, -50), (side * 6, -92)]
        outer: Points = [(side * 27, -112), (side * 36, -84), (side * 34, -48), (side * 31, -6)]
        leg = canvas.polygon(_body_at([*spline(outer, False), *spline(inner, False)]))
        leg = smooth(0.3, 0.7, blur(leg, 1.5))
        canvas.shadow(leg * smooth(FLOOR[1] - 105, FLOOR[1] - 70, canvas.y), (2, 1), 3, 0.5)
        fade = smooth(FLOOR[1] - 108, FLOOR[1] - 72, canvas.y)
        canvas.solid(leg * fade, ginger(canvas), 8, True)
        bands: list[Points] = [
            [(side * 38, y - 3), (side * 28, y), (side * 18, y), (side * 12, y - 2)]
            for y in (-78, -64, -50, -36)
        ]
        stripes(canvas, leg * fade, [_body_at(band) for band in bands], 5)
        sock = leg * smooth(FLOOR[1] - 27, FLOOR[1] - 19, canvas.y + canvas.noise(4, 2) * 3)
        canvas.paint(sock, CREAM, 0.9)
        canvas.fur(leg * fade, _down, count=2400, length=4.5, jitter=0.09, subject=True)
        _paw(canvas, (side * 18, -6), (18.5, 11.5))


def _paw(canvas: Canvas, centre: Point, radii: Point) -> None:
    """Paint one pale paw with its toes."""
    x, y = _body_at([centre])[0]
    paw = canvas.polygon(oval((x, y), radii))
    canvas.shadow(paw, (1, -1), 2, 0.4)
    canvas.solid(paw, CREAM, 6, True)
    canvas.fur(paw, steady((0.0, 1.0)), count=500, length=2.5, jitter=0.05, subject=True)
    for toe in (-0.36, 0.02, 0.40):
        across = radii[0] * toe
        line: Points = [(x + across, y + radii[1] * 0.05), (x + across * 1.1, y + radii[1] * 0.85)]
        canvas.paint(canvas.stroke(line, [0.8, 1.6]), INK, 0.55)


def _round_off(canvas: Canvas) -> None:
    """Light the body once more as a whole, so that its parts belong together."""
    light = relief(canvas.subject, 16) * smooth(FLOOR[1], FLOOR[1] - 40, canvas.y)
    canvas.paint(canvas.subject, light_up(canvas.pixels, light))


def _grade(canvas: Canvas) -> None:
    """Warm the side of the window and let the corners fall back."""
    canvas.glow(np.exp(-np.hypot(canvas.x - 40, canvas.y - 40) / 190), rgb("#ffcf8a"), 0.12)
    corner = np.hypot((canvas.x - 260) / 300, (canvas.y - 150) / 210)
    canvas.paint(smooth(0.75, 1.35, corner), rgb("#1a1428"), 0.5)
