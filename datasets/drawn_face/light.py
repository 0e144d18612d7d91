"""Light and shadow on a painted face, what is behind it, and the camera that takes it."""

import numpy as np
from PIL import Image, ImageFilter

from datasets.drawn_face.geometry import ACTION_UNITS, Pose
from datasets.drawn_face.look import Look
from datasets.drawn_face.paint import Canvas, curve, ellipse

#: Landmarks of the left and the right of the image: outer and inner corner of the eye with the lower lid between,
#: inner end of the brow, nose wing, corner of the mouth.
_SIDES = (
    {"out": -1, "lower_lid": (36, 41, 40, 39), "brow": 21, "wing": 31, "corner": 48},
    {"out": 1, "lower_lid": (45, 46, 47, 42), "brow": 22, "wing": 35, "corner": 54},
)


def shading(pose: Pose, look: Look, image_size: int) -> np.ndarray:
    """How bright an egg-shaped head is under one lamp: factors [image_size, image_size, 1]."""
    cells = image_size // 4
    steps = (np.arange(cells) + 0.5) * image_size / cells
    offset = (np.stack(np.meshgrid(steps, steps), -1) - pose.centre) / pose.scale @ pose.rotation[:2, :2]
    across = offset / (1.3, 1.7)
    forward = np.sqrt(np.maximum(1 - (across**2).sum(-1, keepdims=True), 0.05))
    normal = np.concatenate([across, forward], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    bright = look.ambient + (1.1 - look.ambient) * np.maximum(normal @ look.light, 0)
    smooth = Image.fromarray(bright.astype(np.float32)).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(smooth)[..., None]


def shadows(pose: Pose, look: Look, shape: np.ndarray, units: np.ndarray, image_size: int) -> np.ndarray:
    """Hollows, folds and flush of the skin: factors [image_size, image_size, 3].

    Args:
      pose: how the head is held, in pixels of the image.
      look: where the light comes from, and stubble.
      shape: landmarks (68, 3) in face units.
      units: action units (2, units), which deepen the folds.
      image_size: side in pixels.
    """
    pose = pose.magnified(0.5)
    canvas = Canvas(Image.new("RGB", (image_size // 2, image_size // 2), "white"), pose)
    if look.beard == "stubble":
        cheeks = [(0.8, 0.35, 0), (0.4, 0.52, 0.3), (0, 0.44, 0.5), (-0.4, 0.52, 0.3), (-0.8, 0.35, 0)]
        canvas.area(np.concatenate([shape[3:14], cheeks]), (205, 205, 208))
    for side, strengths in zip(_SIDES, np.maximum(units, 0)):
        _side_shadows(canvas, look, shape, dict(zip(ACTION_UNITS, strengths)), **side)
    raised = max(units[:, list(ACTION_UNITS).index("inner_brow_raiser")].mean(), 0.0)
    forehead = shape[[20, 23], 1].mean()
    for height in (0.16, 0.28, 0.40):
        y = forehead - height
        _fold(canvas, [(-0.45, y + 0.02, 0.2), (0, y - 0.02, 0.3), (0.45, y + 0.02, 0.2)], 0.75 * raised, 0.035)
    canvas.area(ellipse(shape[57] + (0, 0.09, -0.05), (0.14, 0.04)), (205, 188, 184))
    canvas.area(ellipse(shape[33] + (0, 0.05, -0.05), (0.10, 0.05)), (215, 200, 196))
    soft = canvas.image.filter(ImageFilter.GaussianBlur(0.025 * pose.scale + 0.4))
    return np.asarray(soft.resize((image_size, image_size), Image.Resampling.BILINEAR), np.float32) / 255


def _side_shadows(
    canvas: Canvas, look: Look, shape: np.ndarray, on: dict[str, float], *, out: int, lower_lid, brow, wing, corner
) -> None:
    """The shadows beside the midline; `on` is how strong each action unit is, `out` the sign of x outwards."""
    flush = 236 - 22 * on["cheek_raiser"]
    canvas.area(ellipse((out * 0.56, 0.25, 0.2), (0.24, 0.17)), (255, flush, flush - 2))

    eye, inner = shape[lower_lid[0]], shape[lower_lid[-1]]
    canvas.area(ellipse(inner + (0, -0.10, 0), (0.10, 0.09)), (222, 208, 205))
    averted = max(0.25, -1.5 * out * look.light[0])
    nose = [shape[28], shape[29], shape[wing] + (0, -0.05, 0), inner + (0, 0.05, 0)]
    canvas.area(nose, np.full(3, 255 - 45 * averted))

    laugh = max(on["lip_corner_puller"], on["upper_lip_raiser"], on["nose_wrinkler"], 0.6 * on["lip_stretcher"])
    end = shape[corner] + (out * 0.13, 0.02, -0.05)
    middle = (shape[wing] + end) / 2 + (out * 0.10, -0.06, 0)
    _fold(canvas, [shape[wing] + (out * 0.07, -0.03, 0), middle, end], 0.2 + 0.7 * laugh)
    droop = shape[corner] + [(out * 0.03, 0.04, 0), (out * 0.09, 0.2, 0)]
    _fold(canvas, droop, 0.8 * on["lip_corner_depressor"])

    _fold(canvas, shape[brow] + [(-out * 0.04, -0.08, 0.03), (-out * 0.05, 0.13, 0.03)], on["brow_lowerer"])
    _fold(canvas, [(out * 0.05, -0.22, 0.45), (out * 0.14, -0.10, 0.35)], on["nose_wrinkler"], 0.035)
    _fold(
        canvas, shape[list(lower_lid)] + (0, 0.06, 0), 0.25 + 0.5 * max(on["lid_tightener"], on["cheek_raiser"]), 0.035
    )
    if laugh > 0.3:
        for slope in (-0.10, 0.0, 0.09):
            crow = eye + [(out * 0.05, 0.4 * slope, 0), (out * 0.18, 1.4 * slope, -0.1)]
            _fold(canvas, crow, 0.8 * on["cheek_raiser"], 0.03)


def _fold(canvas: Canvas, points, depth: float, width: float = 0.045) -> None:
    """A crease through `points` (n, 3); `depth` 1 takes almost half of the light."""
    canvas.stroke(curve(points), 255 - np.array((95, 115, 120)) * min(depth, 1.3), width)


def background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """A room out of focus: a few soft patches of related colours, float [image_size, image_size, 3]."""
    wall = rng.uniform(60, 205) + rng.normal(0, 18, 3)
    patches = wall + rng.normal(0, rng.uniform(3, 22), (5, 5, 1)) + rng.normal(0, rng.uniform(1, 8), (5, 5, 3))
    small = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return np.array(small.resize((image_size, image_size), Image.Resampling.BICUBIC), np.float32)


def photograph(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Exposure, colour cast, grain and blur of a camera: uint8 of the shape of `scene`."""
    gain = rng.uniform(0.82, 1.04) * rng.normal(1, 0.025, 3)
    grain = rng.standard_normal((*scene.shape[:2], 1), np.float32) * np.float32(rng.uniform(1, 5))
    pixels = np.clip(scene * gain.astype(np.float32) + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0))))
    return pixels
