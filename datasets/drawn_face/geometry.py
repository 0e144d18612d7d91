"""A parametric face: 68 landmarks in space that expressions move and a camera projects.

Landmarks are in the iBUG 300-W order (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth), on a face
whose half-width is 1: x to the right of the image, y down, z towards the viewer. Expressions are mixtures of
the facial action units of FACS (Ekman & Friesen, 1978).
"""

import dataclasses
import functools

import numpy as np

from pipeline import records

#: The landmark on the other side of the face; points of the midline are their own mirror.
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)

JAW, BROWS, NOSE = np.arange(17), np.arange(17, 27), np.arange(27, 36)
LEFT_EYE, RIGHT_EYE, MOUTH = np.arange(36, 42), np.arange(42, 48), np.arange(48, 68)

#: x, y, z at rest of the points on the left of the image and on the midline, without the jaw.
_AT_REST = {
    17: (-0.80, -0.52, 0.05), 18: (-0.69, -0.61, 0.18), 19: (-0.54, -0.645, 0.27), 20: (-0.38, -0.63, 0.33),
    21: (-0.23, -0.585, 0.36),
    27: (0.0, -0.33, 0.40), 28: (0.0, -0.14, 0.50), 29: (0.0, 0.05, 0.61), 30: (0.0, 0.22, 0.70),
    31: (-0.20, 0.31, 0.42), 32: (-0.10, 0.355, 0.50), 33: (0.0, 0.375, 0.54),
    36: (-0.61, -0.285, 0.10), 37: (-0.50, -0.365, 0.22), 38: (-0.35, -0.365, 0.26), 39: (-0.23, -0.275, 0.22),
    40: (-0.35, -0.225, 0.25), 41: (-0.50, -0.225, 0.21),
    48: (-0.35, 0.66, 0.28), 49: (-0.22, 0.605, 0.40), 50: (-0.08, 0.575, 0.48), 51: (0.0, 0.59, 0.49),
    59: (-0.22, 0.735, 0.38), 58: (-0.09, 0.775, 0.45), 57: (0.0, 0.785, 0.46),
    60: (-0.31, 0.66, 0.29), 61: (-0.12, 0.655, 0.44), 62: (0.0, 0.66, 0.46),
    67: (-0.12, 0.67, 0.44), 66: (0.0, 0.675, 0.46),
}  # fmt: skip

#: Displacement (x, y) of the points on the left of the image and on the midline, at full strength.
ACTION_UNITS = {
    "inner_brow_raiser": {21: (0.0, -0.16), 20: (0.0, -0.11), 19: (0.0, -0.04)},  # AU1
    "outer_brow_raiser": {17: (0.0, -0.10), 18: (0.0, -0.14), 19: (0.0, -0.11), 20: (0.0, -0.05)},  # AU2
    "brow_lowerer": {21: (0.07, 0.17), 20: (0.06, 0.13), 19: (0.04, 0.08), 18: (0.02, 0.02), 17: (0.0, -0.03)},  # AU4
    "upper_lid_raiser": {37: (0.0, -0.07), 38: (0.0, -0.07)},  # AU5
    "cheek_raiser": {41: (0.0, -0.05), 40: (0.0, -0.045), 36: (0.0, -0.01)},  # AU6
    "lid_tightener": {37: (0.0, 0.05), 38: (0.0, 0.045), 40: (0.0, -0.03), 41: (0.0, -0.03)},  # AU7
    "nose_wrinkler": {
        30: (0.0, -0.05), 31: (-0.04, -0.09), 32: (-0.02, -0.07), 33: (0.0, -0.05), 21: (0.03, 0.05),
    },  # AU9
    "upper_lip_raiser": {
        49: (-0.02, -0.10), 50: (0.0, -0.11), 51: (0.0, -0.10), 61: (-0.02, -0.09), 62: (0.0, -0.09),
    },  # AU10
    "lip_corner_puller": {
        48: (-0.14, -0.17), 60: (-0.14, -0.17), 49: (-0.07, -0.06), 59: (-0.08, -0.04), 61: (-0.03, -0.03),
        67: (-0.03, 0.0), 50: (-0.01, 0.02), 51: (0.0, 0.02), 62: (0.0, 0.0),
    },  # AU12
    "lip_corner_depressor": {
        48: (0.03, 0.13), 60: (0.03, 0.13), 49: (0.01, 0.05), 59: (0.02, 0.07), 61: (0.0, 0.0), 62: (0.0, -0.02),
        50: (0.0, -0.01), 51: (0.0, -0.02), 58: (0.0, 0.0), 66: (0.0, -0.02), 67: (0.0, 0.01),
    },  # AU15
    "lower_lip_depressor": {
        58: (-0.02, 0.07), 57: (0.0, 0.07), 67: (-0.03, 0.07), 66: (0.0, 0.07), 59: (0.0, 0.04),
    },  # AU16
    "chin_raiser": {58: (0.0, -0.03), 57: (0.0, -0.04), 66: (0.0, -0.02), 67: (0.0, -0.01), 8: (0.0, -0.03)},  # AU17
    "lip_pucker": {48: (0.11, 0.0), 60: (0.11, 0.0), 49: (0.05, -0.01), 59: (0.05, 0.01)},  # AU18
    "lip_stretcher": {48: (-0.14, 0.04), 60: (-0.14, 0.04), 49: (-0.09, 0.0), 59: (-0.09, 0.02), 61: (-0.05, 0.0),
                      67: (-0.05, 0.0)},  # AU20
    "lip_presser": {
        49: (0.01, 0.03), 50: (0.0, 0.045), 51: (0.0, 0.04), 59: (0.01, -0.03), 58: (0.0, -0.055), 57: (0.0, -0.055),
        48: (0.02, 0.0), 60: (0.02, 0.0),
    },  # AU24
    "lips_part": {
        61: (-0.02, -0.03), 62: (0.0, -0.03), 67: (-0.03, 0.07), 66: (0.0, 0.08), 58: (-0.01, 0.07), 57: (0.0, 0.08),
        59: (-0.01, 0.04), 50: (0.0, -0.02), 51: (0.0, -0.02),
    },  # AU25
    "jaw_drop": {
        67: (-0.03, 0.30), 66: (0.0, 0.32), 58: (0.0, 0.31), 57: (0.0, 0.32), 59: (0.03, 0.20), 48: (0.02, 0.10),
        60: (0.02, 0.10), 61: (-0.03, -0.02), 62: (0.0, -0.02),
        8: (0.0, 0.22), 7: (0.0, 0.21), 6: (0.0, 0.18), 5: (0.0, 0.12), 4: (0.0, 0.06),
    },  # AU26
    "lid_droop": {37: (0.0, 0.06), 38: (0.0, 0.05)},  # AU43
}  # fmt: skip

#: The action units of each expression at full intensity (EMFACS; contempt is on one side only).
EXPRESSION_UNITS = {
    "neutral": {},
    "happy": {"lip_corner_puller": 1.0, "cheek_raiser": 1.0, "lips_part": 0.9},
    "sad": {"inner_brow_raiser": 1.9, "brow_lowerer": 0.5, "lip_corner_depressor": 2.1, "chin_raiser": 1.0,
            "lid_droop": 1.3},
    "surprise": {"inner_brow_raiser": 1.0, "outer_brow_raiser": 1.1, "upper_lid_raiser": 0.8, "jaw_drop": 1.0,
                 "lip_pucker": 0.9},
    "fear": {"inner_brow_raiser": 1.3, "outer_brow_raiser": 0.3, "brow_lowerer": 0.4, "upper_lid_raiser": 1.0,
             "lip_stretcher": 1.1, "lips_part": 1.3, "lower_lip_depressor": 0.4},
    "disgust": {"nose_wrinkler": 1.0, "upper_lip_raiser": 1.1, "brow_lowerer": 0.5, "lid_tightener": 1.0,
                "lip_corner_depressor": 0.6, "cheek_raiser": 0.6},
    "anger": {"brow_lowerer": 1.3, "outer_brow_raiser": 0.2, "lid_tightener": 0.6, "lip_presser": 1.0,
              "lip_corner_depressor": 0.3},
    "contempt": {"lip_corner_puller": 2.0, "cheek_raiser": 1.0, "lid_droop": 1.0, "outer_brow_raiser": 1.4},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where the head is and how it is turned; angles in radians, positions in pixels.

    Attributes:
      yaw, pitch, roll: to the image's right, down, and clockwise are positive.
      scale: pixels of half a face's width.
      centre: x and y in pixels of the face's origin, the point between the eyes and the nose.
    """

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]

    @functools.cached_property
    def rotation(self) -> np.ndarray:
        """The rotation, (3, 3): p -> p @ rotation.T."""
        angles = self.yaw, self.pitch, self.roll
        (sy, sp, sr), (cy, cp, cr) = np.sin(angles), np.cos(angles)
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw

    def magnified(self, factor: float) -> "Pose":
        """The same head in an image with `factor` times as many pixels a side."""
        return dataclasses.replace(
            self, scale=self.scale * factor, centre=(self.centre[0] * factor, self.centre[1] * factor)
        )

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels (n, 2) of points (n, 3) in face units, by a camera five half-widths away."""
        turned = np.asarray(points, np.float64) @ self.rotation.T
        nearness = 5.0 / (5.0 - turned[:, 2:])
        return turned[:, :2] * nearness * self.scale + self.centre


def sample_pose(rng: np.random.Generator, image_size: int) -> Pose:
    """A head turned a little, which nearly fills an image of `image_size` pixels a side."""
    yaw, pitch, roll = rng.normal(0, (0.17, 0.09, 0.09)).clip(-0.38, 0.38)
    x, y = rng.normal((0.5 - 0.05 * yaw, 0.52), 0.012)
    scale = rng.uniform(0.28, 0.325)
    return Pose(yaw, pitch, roll, image_size * scale, (image_size * x, image_size * y))


def rest_shape() -> np.ndarray:
    """The mean face without expression, (68, 3)."""
    shape = np.zeros((records.LANDMARKS, 3))
    turn = np.linspace(0.0, np.pi, 17)
    shape[:17, 0] = -np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.85
    shape[:17, 1] = -0.25 + 1.4 * np.sin(turn) ** 1.15
    shape[:17, 2] = -0.55 + 0.85 * np.sin(turn)
    for point, position in _AT_REST.items():
        shape[point] = position
        shape[MIRROR[point]] = np.multiply(position, (-1, 1, 1)) if MIRROR[point] != point else position
    return shape


def person_shape(rng: np.random.Generator) -> np.ndarray:
    """The face of one person without expression, (68, 3): the mean face with features moved and stretched."""
    shape = rest_shape()
    # Points, the centre that they are stretched about, the spread of the shift in y, and of the stretch in x and y.
    for points, centre, shift, stretch in (
        (JAW, (0.0, -0.25), 0.0, (0.05, 0.07)),
        (BROWS, (0.0, -0.6), 0.025, (0.04, 0.1)),
        (NOSE, (0.0, -0.33), 0.0, (0.12, 0.06)),
        (LEFT_EYE, (-0.38, -0.29), 0.0, (0.07, 0.08)),
        (MOUTH, (0.0, 0.66), 0.03, (0.07, 0.14)),
    ):
        factor = 1 + rng.normal(0.0, stretch).clip(-0.2, 0.2)
        shape[points, :2] = centre + (shape[points, :2] - centre) * factor
        shape[points, 1] += rng.normal(0.0, shift)
    shape[RIGHT_EYE] = shape[MIRROR[RIGHT_EYE]] * (-1, 1, 1)
    # A square jaw, and brows that rise or fall outwards a little, as some people's do.
    shape[JAW, 0] *= 1 + rng.uniform(-0.04, 0.08) * np.sin(np.linspace(0, 2 * np.pi, 17)) ** 2
    shape[BROWS, 1] += rng.normal(0.0, 0.02) * (np.abs(shape[BROWS, 0]) - 0.5)
    return shape


@functools.cache
def _displacements() -> np.ndarray:
    """(2 sides, units, 68, 2): the left of the image first."""
    sides = np.zeros((2, len(ACTION_UNITS), records.LANDMARKS, 2))
    for unit, moves in enumerate(ACTION_UNITS.values()):
        for point, (x, y) in moves.items():
            if MIRROR[point] == point:
                sides[:, unit, point] = 0.0, y / 2
            else:
                sides[0, unit, point] = x, y
                sides[1, unit, MIRROR[point]] = -x, y
    return sides


def intensity(arousal: float) -> float:
    """How strongly an expression shows: 0.3 at arousal -1, 1 at arousal 1."""
    return 0.65 + 0.35 * arousal


def activation(rng: np.random.Generator, expression: int, valence: float, arousal: float) -> np.ndarray:
    """The action units of an expression as one person shows it once.

    Args:
      rng: varies the strength of each unit, and which form of the expression is shown.
      expression: index into `records.EXPRESSIONS`.
      valence, arousal: in [-1, 1].

    Returns:
      (2 sides, units) in the order of ACTION_UNITS, the left of the image first.
    """
    name = records.EXPRESSIONS[expression]
    units = {unit: weight * intensity(arousal) for unit, weight in EXPRESSION_UNITS[name].items()}
    if name == "happy":
        units["lips_part"] *= np.clip(1.2 + 2.0 * arousal, 0.0, 1.2)
    if name == "anger" and rng.random() < 0.3:  # Teeth bared instead of lips pressed together.
        units |= {"lip_presser": 0.0, "lips_part": intensity(arousal), "upper_lip_raiser": 0.4 * intensity(arousal)}
    units = {unit: weight * rng.uniform(0.88, 1.12) for unit, weight in units.items()}
    for unit, weight in (
        ("lip_corner_puller", 0.25 * max(valence, 0.0)),
        ("lip_corner_depressor", 0.25 * max(-valence, 0.0)),
        ("upper_lid_raiser", 0.5 * arousal),
    ):
        units[unit] = units.get(unit, 0.0) + weight
    sides = np.array([[units.get(unit, 0.0) for unit in ACTION_UNITS]] * 2)
    if name == "contempt":
        sides[rng.integers(2)] *= 0.1
    return sides * rng.uniform(0.92, 1.08, sides.shape)


def express(shape: np.ndarray, units: np.ndarray) -> np.ndarray:
    """A shape (68, 3) moved by action units (2, units)."""
    moved = shape.copy()
    moved[:, :2] += np.einsum("su,supc->pc", units, _displacements())
    return moved
