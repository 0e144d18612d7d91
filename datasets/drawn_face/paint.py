"""Paints a face in flat colours.

Everything is placed in face units, as in `geometry`, and projected by the pose. Points are (n, 3), colours RGB in
[0, 255]. What is painted later hides what was painted before.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from datasets.drawn_face.geometry import JAW, Pose
from datasets.drawn_face.look import COVERS_EARS, Look

_SCLERA = np.array((244, 242, 238), np.float64)
_TEETH = np.array((246, 242, 232), np.float64)
_MOUTH_CAVITY = np.array((70, 18, 24), np.float64)
_TONGUE = np.array((196, 88, 92), np.float64)
_INK = np.array((35, 24, 24), np.float64)


class Canvas:
    """An image on which shapes given in face units are painted."""

    def __init__(self, image: Image.Image, pose: Pose):
        self.image = image
        self.pose = pose
        self._draw = ImageDraw.Draw(image)

    def area(self, points, colour) -> None:
        """Fills the polygon of `points` (n, 3)."""
        self._draw.polygon(self.pose.project(points).ravel().tolist(), fill=_rgb(colour))

    def stroke(self, points, colour, width: float) -> None:
        """Draws a line through `points` (n, 3), `width` in face units."""
        pixels = max(1, round(width * self.pose.scale))
        self._draw.line(self.pose.project(points).ravel().tolist(), fill=_rgb(colour), width=pixels, joint="curve")

    def disc(self, centre, radius: float, colour) -> None:
        """Fills a circle that faces the camera."""
        (x, y), r = self.pose.project(np.atleast_2d(centre))[0], radius * self.pose.scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=_rgb(colour))


def _rgb(colour) -> tuple[int, ...]:
    return tuple(np.clip(colour, 0, 255).astype(int).tolist())


def curve(points, steps: int = 5) -> np.ndarray:
    """A Catmull-Rom spline through `points` (n, 3): (steps * (n - 1) + 1, 3)."""
    points = np.asarray(points, np.float64)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.arange(steps)[:, None] / steps
    before, start, end, after = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    curve = start + 0.5 * t * (
        end - before + t * (2 * before - 5 * start + 4 * end - after + t * (3 * (start - end) + after - before))
    )
    return np.concatenate([curve.reshape(-1, 3), points[-1:]])


def _ring(shape: np.ndarray, upper, lower) -> np.ndarray:
    """A closed outline with sharp corners from two rows of landmarks."""
    return np.concatenate([curve(shape[list(upper)]), curve(shape[list(lower)])])


def ellipse(centre, radii, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    """Points (n, 3) of an ellipse in a plane that faces forward; angles in degrees, clockwise from the right."""
    turn = np.radians(np.linspace(start, end, 33))
    return centre + np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn), 0 * turn], 1)


def _mirrored(points) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(points, np.float64)
    return points, points * (-1, 1, 1)


def paint(pose: Pose, size: int, look: Look, shape: np.ndarray, arousal: float) -> Image.Image:
    """The person on a transparent image.

    Args:
      pose: how the head is held, in pixels of this image.
      size: side in pixels.
      look: colours and style.
      shape: landmarks (68, 3) in face units.
      arousal: in [-1, 1]; it widens the pupils.

    Returns:
      An RGBA image, size x size.
    """
    canvas = Canvas(Image.new("RGBA", (size, size)), pose)
    forehead = _forehead(shape, look)
    _back_hair(canvas, look)
    _body(canvas, look)
    _head(canvas, look, shape, forehead)
    _nose(canvas, look, shape)
    _beard(canvas, look, shape)
    _eyes_and_mouth(canvas, look, shape, arousal)
    _lids_and_lips(canvas, look, shape)
    _front_hair(canvas, look, forehead)
    _brows(canvas, look, shape)
    _glasses(canvas, look, shape)
    return canvas.image


def _forehead(shape: np.ndarray, look: Look) -> np.ndarray:
    """The upper end of the face, from the right of the image to the left, (n, 3)."""
    up = look.hairline
    left = [(-1.0, -0.35, -0.45), (-0.97, -0.66 - up / 2, -0.25), (-0.80, -1.0 - up, 0.0), (-0.42, -1.13 - up, 0.15)]
    left, right = _mirrored(left)
    left[:, 0] *= -shape[0, 0]
    right[:, 0] *= shape[16, 0]
    return curve(np.concatenate([shape[16:17], right, [(0.0, -1.16 - up, 0.2)], left[::-1], shape[:1]]))


def _back_hair(canvas: Canvas, look: Look) -> None:
    skull = ellipse((0, -0.50, -0.35), (1.17, 1.22))
    colour = look.hair * 0.85
    if look.hair_style == "shaved":
        canvas.area(ellipse((0, -0.45, -0.3), (1.08, 1.1)), look.skin * 0.95)
        return
    if look.hair_style == "curly":
        for x, y, z in ellipse((0, -0.55, -0.35), (1.08, 1.05), 160, 380)[::2]:
            canvas.disc((x, y, z), 0.33, colour)
    if look.hair_style == "bun":
        canvas.disc((0, -1.75, -0.5), 0.38, colour)
    if look.hair_style in COVERS_EARS:
        bottom = 0.75 if look.hair_style == "bob" else 2.6
        canvas.area([(-1.2, -0.6, -0.5), (-1.38, bottom, -0.5), (1.38, bottom, -0.5), (1.2, -0.6, -0.5)], colour)
    canvas.area(skull, look.hair)


def _body(canvas: Canvas, look: Look) -> None:
    head = canvas.pose
    canvas.pose = dataclasses.replace(head, yaw=0.4 * head.yaw, pitch=0.0, roll=0.3 * head.roll)
    canvas.area([(-0.62, 0.3, -0.5), (-0.66, 1.9, -0.5), (0.66, 1.9, -0.5), (0.62, 0.3, -0.5)], look.skin * 0.8)
    shoulder = curve([(-2.6, 2.0, -0.4), (-1.5, 1.68, -0.4), (-0.72, 1.5, -0.4)])
    collar = curve([(-0.72, 1.5, -0.4), (0, 1.75, -0.2), (0.72, 1.5, -0.4)])
    below = [(2.6, 4, 0), (-2.6, 4, 0)]
    canvas.area(np.concatenate([shoulder, collar, shoulder[::-1] * (-1, 1, 1), below]), look.cloth)
    if look.hair_style == "scarf":
        for width, shade in ((1.36, 0.85), (1.2, 0.93), (1.0, 0.85)):
            canvas.area(ellipse((0, 0.2, -0.4), (width, 0.85 + width)), look.hair * shade)
    canvas.pose = head


def _head(canvas: Canvas, look: Look, shape: np.ndarray, forehead: np.ndarray) -> None:
    if look.hair_style not in COVERS_EARS:
        for side in (-1, 1):
            canvas.area(ellipse((side * 1.03, -0.08, -0.5), (0.15, 0.27)), look.skin * 0.93)
            canvas.area(ellipse((side * 1.05, -0.08, -0.48), (0.08, 0.17)), look.skin * 0.78)
    canvas.area(np.concatenate([curve(shape[JAW]), forehead]), look.skin)


def _nose(canvas: Canvas, look: Look, shape: np.ndarray) -> None:
    left, right = _mirrored([(-0.05, -0.07, -0.05), (-0.03, 0.01, 0)])
    base = np.concatenate([shape[31] + left, shape[32:35], shape[35] + right[::-1]])
    canvas.stroke(curve(base), look.skin * 0.72, 0.025)
    for nostril in (32, 34):
        canvas.area(ellipse(shape[nostril] + (0, -0.015, 0), (0.055, 0.025)), look.skin * 0.42)
    canvas.disc(shape[30] + 0.04 * look.light * (1, 1, 0), 0.055, look.skin * 1.06 + 6)


def _beard(canvas: Canvas, look: Look, shape: np.ndarray) -> None:
    if look.beard == "full":
        low = shape[JAW][2:15] * (1.02, 1.03, 1)
        cheek = np.array([(0.83, 0.30, 0.0), (0.62, 0.50, 0.2), (0.42, 0.52, 0.3), (0.22, 0.43, 0.42)])
        edge = np.concatenate([cheek, shape[33:34] + (0, 0.05, 0), cheek[::-1] * (-1, 1, 1)])
        canvas.area(np.concatenate([curve(low), curve(edge)]), look.hair)
    if look.beard == "moustache":
        upper = curve([shape[48] + (-0.03, 0.02, 0), shape[49] + (0, -0.06, 0), shape[51] + (0, -0.10, 0),
                        shape[53] + (0, -0.06, 0), shape[54] + (0.03, 0.02, 0)])  # fmt: skip
        canvas.area(np.concatenate([upper, curve(shape[[54, 53, 51, 49, 48]])]), look.hair)


def _eyes_and_mouth(canvas: Canvas, look: Look, shape: np.ndarray, arousal: float) -> None:
    """Eyeballs and the inside of the mouth, each cut out by its outline."""
    inside = Canvas(Image.new("RGB", canvas.image.size, _rgb(_SCLERA)), canvas.pose)
    window = Canvas(Image.new("L", canvas.image.size), canvas.pose)
    for inner, outer, row in ((39, 36, range(36, 42)), (42, 45, range(42, 48))):
        centre = (shape[inner] + shape[outer]) / 2 + (*look.gaze, 0.05) - (0, 0.02, 0)
        inside.disc(centre, 0.105, look.iris * 0.6)
        inside.disc(centre, 0.09, look.iris)
        inside.disc(centre, 0.042 + 0.018 * arousal, (12, 10, 12))
        inside.disc(centre + 0.045 * look.light * (1, 1, 0) - (0, 0.01, 0), 0.022, (255, 255, 255))
        first, *rest = row
        window.area(_ring(shape, [first, *rest[:3]], [*rest[2:], first]), (255,))
    upper, lower = curve(shape[60:65]), curve(shape[[64, 65, 66, 67, 60]])
    gap = shape[66, 1] - shape[62, 1]
    inside.area(ellipse(shape[66] + (0, -0.1, 0), (0.6, 0.6)), _MOUTH_CAVITY)
    inside.area(ellipse(shape[66] + (0, 0.10, 0), (0.22, 0.2)), _TONGUE)
    edge = upper + (0, min(0.5 * gap, 0.12), 0)
    inside.area(np.concatenate([upper - (0, 0.1, 0), edge[::-1]]), _TEETH)
    window.area(np.concatenate([upper, lower]), (255,))
    canvas.area(_ring(shape, range(48, 55), [54, 55, 56, 57, 58, 59, 48]), look.lips)
    canvas.area(np.concatenate([curve(shape[48:55]), curve(shape[[64, 63, 62, 61, 60]])]), look.lips * 0.88)
    canvas.image.paste(inside.image, mask=window.image)


def _lids_and_lips(canvas: Canvas, look: Look, shape: np.ndarray) -> None:
    """The lines that bound eyes and mouth."""
    for upper, lower in ((range(36, 40), (39, 40, 41, 36)), (range(42, 46), (45, 46, 47, 42))):
        lid = curve(shape[list(upper)])
        canvas.stroke(curve(shape[list(lower)]), look.skin * 0.66, 0.014)
        canvas.stroke(lid, _INK, look.lashes)
        canvas.stroke(lid[2:-2] + (0, -0.065, 0), look.skin * 0.74, 0.018)
    canvas.stroke(curve(shape[60:65]), look.lips * 0.45, 0.022)
    canvas.stroke(curve(shape[[64, 65, 66, 67, 60]]), look.lips * 0.55, 0.014)


def _front_hair(canvas: Canvas, look: Look, forehead: np.ndarray) -> None:
    top = forehead[5:-5] * (1.03, 1, 1) - (0, 0.06, 0)
    if look.front == "fringe":
        low = [
            (x, -0.88 + 0.12 * abs(x) + 0.04 * (i % 2), 0.3 - 0.45 * x * x)
            for i, x in enumerate(np.linspace(-0.93, 0.93, 13))
        ]
        canvas.area(np.concatenate([top, low]), look.hair * 0.94)
    if look.front == "parting":
        low = [(-0.99, -0.5, -0.2), (-0.75, -0.90, 0.1), (0.3, -1.16, 0.25), (0.75, -0.95, 0.1), (0.99, -0.5, -0.2)]
        canvas.area(np.concatenate([top, curve(low)]), look.hair * 0.94)
    if look.hair_style in COVERS_EARS:
        bottom = 0.7 if look.hair_style == "bob" else 2.6
        lock = [
            (-0.35, -1.40, 0.0), (-0.86, -0.8, -0.1), (-0.94, -0.2, -0.2), (-0.93, 0.4, -0.3), (-0.97, bottom, -0.3),
            (-1.36, bottom, -0.4), (-1.28, 0.0, -0.4), (-1.17, -0.6, -0.3), (-1.02, -1.05, -0.15),
            (-0.75, -1.38, -0.05),
        ]  # fmt: skip
        for side in _mirrored(lock):
            canvas.area(curve(side), look.hair)


def _brows(canvas: Canvas, look: Look, shape: np.ndarray) -> None:
    for row in (range(17, 22), range(26, 21, -1)):
        spine = curve(shape[list(row)])
        thickness = look.brow * np.interp(np.linspace(0, 1, len(spine)), (0, 0.5, 0.9, 1), (0.15, 0.8, 1, 0.8))
        offset = np.stack([0 * thickness, thickness, 0 * thickness], 1)
        canvas.area(np.concatenate([spine - offset, (spine + offset)[::-1]]), look.brows)


def _glasses(canvas: Canvas, look: Look, shape: np.ndarray) -> None:
    if not look.glasses:
        return
    frame = look.cloth * 0.35
    for row, temple in ((range(36, 42), shape[0]), (range(42, 48), shape[16])):
        centre = shape[list(row)].mean(0) * (1.04, 1, 1) + (0, 0.02, 0.1)
        if look.glasses == "round":
            rim = ellipse(centre, (0.31, 0.28))
        else:
            corners = [(-0.31, -0.2, 0), (0.31, -0.2, 0), (0.27, 0.23, 0), (-0.27, 0.23, 0), (-0.31, -0.2, 0)]
            rim = centre + np.array(corners)
        canvas.stroke(rim, frame, 0.035)
        side = np.sign(centre[0])
        hinge = centre + (side * 0.31, -0.06, 0)
        if side * np.subtract(*canvas.pose.project([temple, hinge]))[0] > 0:  # Else the lens hides it.
            canvas.stroke([hinge, temple], frame, 0.03)
    left, right = shape[36:42].mean(0), shape[42:48].mean(0)
    bridge = [left + (0.29, -0.03, 0.1), (0, left[1] - 0.07, 0.45), right + (-0.29, -0.03, 0.1)]
    canvas.stroke(curve(bridge), frame, 0.03)
