"""Paints a face of `face_model`."""

import numpy as np
from PIL import Image, ImageDraw

from datasets import face_model

_OVERSAMPLING = 2


def draw(
    rng: np.random.Generator, expression: int, valence: float, arousal: float, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one face.

    Returns:
      (uint8 RGB image [image_size, image_size, 3], float32 landmarks (68, 2): x, y in its pixels).
    """
    units = face_model.activation(rng, expression, valence, arousal)
    shape = face_model.express(face_model.rest_shape(), units)
    size = image_size * _OVERSAMPLING
    pose = face_model.Pose(*rng.normal(0, (0.2, 0.08, 0.1)), 0.3 * size, (0.5 * size, 0.45 * size))
    points = pose.project(shape)
    image = Image.new("RGB", (size, size), tuple(rng.integers(60, 220, 3).tolist()))
    draw = ImageDraw.Draw(image)
    skin = (np.array([235, 190, 160]) * rng.uniform(0.5, 1)).astype(int)

    def fill(indices, colour):
        draw.polygon(points[list(indices)].ravel().tolist(), fill=tuple(colour))

    top, bottom = points[[0, 16, 8, 27]].min(0), points[[0, 16, 8]].max(0)
    draw.ellipse([top[0], top[1] - 0.3 * size, bottom[0], bottom[1] - 0.2 * size], fill=tuple(skin))
    fill(range(17), skin)
    for eye in (range(36, 42), range(42, 48)):
        fill(eye, (250, 250, 250))
        x, y = points[list(eye)].mean(0)
        draw.circle((x, y), 0.02 * size, fill=(40, 30, 20))
    fill(range(48, 60), (180, 70, 70))
    fill(range(60, 68), (60, 10, 10))
    for brow in (range(17, 22), range(22, 27)):
        draw.line(points[list(brow)].ravel().tolist(), fill=(50, 30, 20), width=size // 60)
    draw.line(points[27:36].ravel().tolist(), fill=tuple((skin * 0.7).astype(int)), width=size // 100)
    pixels = np.asarray(image.reduce(_OVERSAMPLING), np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255).round().astype(np.uint8), (points / _OVERSAMPLING).astype(np.float32)
