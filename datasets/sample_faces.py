"""Faces drawn by code, in AffectNet's layout: what the demo and the tests run on.

    python -m datasets.sample_faces --output_dir=RAW --count=1000 --seed=0

writes RAW/images/{id}.jpg and RAW/annotations/{id}_exp.npy, _val.npy, _aro.npy and _lnd.npy (136 numbers
x, y, x, y … in pixels). `--layout=split` puts the same in RAW/train_set and RAW/val_set, where a number names
different faces, as in AffectNet; val_set holds as many faces of each expression. Ids have gaps. Face i depends
on (seed, i) alone, so a larger count adds faces and changes none.
"""

import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib

import numpy as np
import tqdm
from absl import flags
from PIL import Image

from datasets.drawn_face import geometry, light, look, paint
from pipeline import command, errors

LAYOUTS = ("flat", "split")
STORAGES = ("mixed", "text", "number", "vector")
SETTINGS_FILE = "sample_faces.json"

#: Faces are painted this many times larger and reduced, for smooth edges.
_OVERSAMPLING = 2

#: Changes when the same seed gives other faces.
DRAWING_VERSION = 1

#: What a generator draws is the last number of its seed. None is 0, which NumPy cannot tell from no number.
_ORDER, _LABELS, PICTURE = 1, 2, 3

#: How many of 40 faces show each expression, in the order of `records.EXPRESSIONS`: uneven, like AffectNet.
BLOCK = (8, 10, 5, 4, 3, 3, 4, 3)

#: Mean and standard deviation of arousal and of valence by expression, and how much valence moves with arousal.
AROUSAL_MEAN = (0.00, 0.20, -0.35, 0.60, 0.70, 0.35, 0.55, -0.10)
AROUSAL_SPREAD = (0.10, 0.18, 0.16, 0.16, 0.14, 0.16, 0.16, 0.16)
VALENCE_MEAN = (0.00, 0.72, -0.60, 0.20, -0.45, -0.65, -0.55, -0.30)
VALENCE_SPREAD = (0.06, 0.10, 0.10, 0.12, 0.10, 0.08, 0.10, 0.10)
VALENCE_SLOPE = (0.00, 0.35, -0.20, 0.20, -0.30, -0.25, -0.30, -0.20)


@dataclasses.dataclass(frozen=True)
class Face:
    """The labels of one face and where it goes.

    Attributes:
      index: its number in the dataset, from 0.
      number: its id; unique in its folder.
      folder: "", "train_set" or "val_set".
      expression: index into `records.EXPRESSIONS`.
      valence, arousal: in [-1, 1].
    """

    index: int
    number: int
    folder: str
    expression: int
    valence: float
    arousal: float


def face(seed: int, index: int, layout: str = "flat") -> Face:
    """The labels and the id of one face; every 40 faces hold the expressions as in BLOCK."""
    block, position = divmod(index, sum(BLOCK))
    order = np.random.default_rng([seed, block, _ORDER]).permutation(np.repeat(np.arange(len(BLOCK)), BLOCK))
    expression = int(order[position])
    rng = np.random.default_rng([seed, index, _LABELS])
    excitement = rng.normal(0, AROUSAL_SPREAD[expression])
    mood = rng.normal(VALENCE_SLOPE[expression] * excitement, VALENCE_SPREAD[expression])
    arousal = float(np.clip(AROUSAL_MEAN[expression] + excitement, -1, 1))
    valence = float(np.clip(VALENCE_MEAN[expression] + mood, -1, 1))
    folder, rank = "", index
    if layout == "split":
        folder = "train_set"
        if position == list(order).index(expression):
            folder, rank = "val_set", block * len(BLOCK) + expression
    number = 3 * rank + int(rng.integers(3))
    return Face(index, number, folder, expression, round(valence, 6), round(arousal, 6))


def draw_face(
    seed: int | np.random.Generator, expression: int, valence: float, arousal: float, image_size: int = 224
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one face: geometry, flat colours, light, camera.

    Args:
      seed: a seed or generator for everything but the labels: identity, hair, pose, light, background, noise.
      expression: index into `records.EXPRESSIONS`.
      valence, arousal: in [-1, 1].
      image_size: side in pixels.

    Returns:
      (uint8 RGB image [image_size, image_size, 3], float32 landmarks (68, 2): x, y in its pixels).
    """
    rng = np.random.default_rng(seed)
    person, pose = look.sample_look(rng), geometry.sample_pose(rng, image_size)
    units = geometry.activation(rng, expression, valence, arousal)
    shape = geometry.express(geometry.person_shape(rng), units)
    size = _OVERSAMPLING * image_size
    painted = paint.paint(pose.magnified(_OVERSAMPLING), size, person, shape, arousal).reduce(_OVERSAMPLING)
    colour, alpha = np.split(np.asarray(painted, np.float32), [3], axis=-1)
    lit = colour * light.shading(pose, person, image_size) * light.shadows(pose, person, shape, units, image_size)
    scene = light.background(rng, image_size)
    scene += alpha / 255 * (lit - scene)
    return light.photograph(rng, scene), pose.project(shape).astype(np.float32)


def write_dataset(
    output_dir: str | os.PathLike,
    *,
    count: int,
    seed: int,
    image_size: int = 224,
    layout: str = "flat",
    storage: str = "mixed",
    num_workers: int = 1,
    progress: bool = False,
) -> None:
    """Writes `count` faces; a directory that holds some of the same faces is completed.

    Args:
      output_dir: a directory that is missing, empty, or of an earlier run with the same settings.
      count: how many faces.
      seed: of everything.
      image_size: side in pixels.
      layout: one of LAYOUTS.
      storage: how `.npy` files hold a number: 0-d text, 0-d number, a vector of one number, or each in turn.
      num_workers: processes; the files are the same for any number.
      progress: whether to show a bar.

    Raises:
      UsageError: an argument has a wrong value, or the directory holds something else.
      EnvironmentFault: the files cannot be written.
    """
    if count < 1 or seed < 0 or image_size < 32 or num_workers < 1 or layout not in LAYOUTS or storage not in STORAGES:
        raise errors.UsageError(
            f"count={count}, seed={seed}, image_size={image_size}, num_workers={num_workers}, layout={layout!r}, "
            f"storage={storage!r}: give a count and workers of at least 1, a seed of at least 0, an image_size of at "
            f"least 32, a layout of {', '.join(LAYOUTS)}, a storage of {', '.join(STORAGES)}"
        )
    settings = {"drawing": DRAWING_VERSION, "count": count, "seed": seed, "image_size": image_size}
    settings |= {"layout": layout, "storage": storage}
    root = pathlib.Path(output_dir)
    try:
        _claim(root, settings)
        for folder in ("",) if layout == "flat" else ("train_set", "val_set"):
            (root / folder / "images").mkdir(parents=True, exist_ok=True)
            (root / folder / "annotations").mkdir(parents=True, exist_ok=True)
        with tqdm.tqdm(total=count, unit="face", disable=not progress) as bar:
            for _ in _each(num_workers, _Writer(root, settings), range(count)):
                bar.update()
    except OSError as error:
        raise errors.EnvironmentFault(f"{error.filename or root} cannot be written: {error.strerror}") from error


def _claim(root: pathlib.Path, settings: dict) -> None:
    """Writes the settings into a new directory, or compares them in an old one."""
    root.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1) + "\n"
    file = root / SETTINGS_FILE
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise errors.UsageError(f"{root} holds faces of other settings (see {file}); give another output directory")
    elif any(not path.name.startswith(".") for path in root.iterdir()):
        raise errors.UsageError(f"{root} is not empty; give an output directory that is missing or empty")
    else:
        _write(file, text.encode())


def _each(num_workers: int, function, items):
    """Maps a function in order, in this process or in a pool."""
    if num_workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(function, items, chunksize=16)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Draws face `index` and writes its files, the image last; a face whose image is there is complete."""

    root: pathlib.Path
    settings: dict

    def __call__(self, index: int) -> None:
        seed, image_size = self.settings["seed"], self.settings["image_size"]
        this = face(seed, index, self.settings["layout"])
        image_file = self.root / this.folder / "images" / f"{this.number}.jpg"
        if image_file.exists():
            return
        rng = np.random.default_rng([seed, index, PICTURE])
        image, landmarks = draw_face(rng, this.expression, this.valence, this.arousal, image_size)
        storage = self.settings["storage"]
        if storage == "mixed":
            storage = STORAGES[1 + index % 3]
        for suffix, array in {
            "exp": _stored(this.expression, storage),
            "val": _stored(this.valence, storage),
            "aro": _stored(this.arousal, storage),
            "lnd": landmarks.astype(np.float64).round(3).ravel(),
        }.items():
            np.save(self.root / this.folder / "annotations" / f"{this.number}_{suffix}.npy", array)
        jpeg = io.BytesIO()
        Image.fromarray(image).save(jpeg, "JPEG", quality=int(rng.integers(85, 96)))
        _write(image_file, jpeg.getvalue())


def _stored(value: float, storage: str) -> np.ndarray:
    """A number as an array, in one of the ways that published readers of AffectNet show."""
    return {"text": np.array(str(value)), "number": np.array(value), "vector": np.array([value])}[storage]


def _write(path: pathlib.Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string(
        "output_dir", None, "A directory that is missing, empty, or of the same settings.", required=True
    )
    flags.DEFINE_integer("count", 1000, "How many faces.")
    flags.DEFINE_integer("seed", 0, "Seed of everything.")
    flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.")
    flags.DEFINE_enum("layout", "flat", LAYOUTS, "One folder, or train_set and val_set.")
    flags.DEFINE_enum("storage", "mixed", STORAGES, "How .npy files hold a number; mixed is each in turn.")
    flags.DEFINE_integer("num_workers", os.cpu_count(), "Processes; the files are the same for any number.")
    command.run(_draw)


def _draw() -> None:
    given = flags.FLAGS
    write_dataset(
        given.output_dir,
        count=given.count,
        seed=given.seed,
        image_size=given.image_size,
        layout=given.layout,
        storage=given.storage,
        num_workers=given.num_workers,
        progress=True,
    )
    print(f"{given.count} faces in {given.output_dir}")


if __name__ == "__main__":
    main()
