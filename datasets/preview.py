"""What the network sees: one face per row, as stored and in eight augmented versions, with their labels.

    python -m datasets.preview --dataset_dir=DATA/affect_faces/NAME/1.0.0 --output=grid.png

Flags named like the fields of `AugmentConfig` change the augmentation, for example --rotation=30 --mixup=0.2.
"""

import dataclasses
import io
import os

import numpy as np
from absl import flags

from datasets.augmentation import AugmentConfig, augment_batch
from pipeline import command
from pipeline.errors import EnvironmentFault, UsageError
from pipeline.records import EXPRESSIONS

VERSIONS = 8
_MARGIN, _LINE = 4, 12
_SCALES = ("valence", "arousal")


def draw_grid(
    dataset_dir: str | os.PathLike, config: AugmentConfig, *, per_class: int = 1, image_size: int = 160, seed: int = 0
) -> bytes:
    """The picture.

    Args:
      dataset_dir: a published dataset.
      config: the augmentation.
      per_class: faces of each expression, and of those whose expression is unknown.
      image_size: side of each face in pixels, at most 1024.
      seed: of the augmentation.

    Returns:
      The bytes of a PNG with one row for each face and 1 + VERSIONS columns.

    Raises:
      UsageError: an argument has a wrong value.
      DataError: the dataset is damaged; names the file.
    """
    # Arrow here, TensorFlow and Pillow below: they take longer to import than --help may take to answer.
    from pipeline import report_data

    if per_class < 1 or not 32 <= image_size <= 1024 or seed < 0:
        raise UsageError(
            f"per_class={per_class}, image_size={image_size}, seed={seed}: give 1 or more faces, 32 to 1024 pixels, "
            "a seed of 0 or more"
        )
    chosen = report_data.sample_faces(report_data.load(dataset_dir), per_class)
    batch = _batch([face.record for _, faces in chosen for face in faces], image_size)
    rows = np.arange(len(batch["image"]))
    versions = [batch]
    for version in range(VERSIONS):
        seeds = np.stack([np.full_like(rows, seed * VERSIONS + version), rows], axis=1).astype(np.uint32)
        versions.append(augment_batch(batch, config, seeds.view(np.int32)))
    return _paint(versions, image_size)


def _batch(records: list, image_size: int) -> dict:
    """The records as the input pipeline gives them to `augment_batch`."""
    import tensorflow as tf

    from datasets import preprocessing

    shares = np.array([record.shares for record in records], np.float32)
    valence, arousal = (np.array([getattr(record, name) for record in records], np.float32) for name in _SCALES)
    known = {"expression": shares.any(axis=1), "valence": ~np.isnan(valence), "arousal": ~np.isnan(arousal)}
    return {
        "image": tf.stack([preprocessing.decode_and_resize(record.image, image_size) for record in records]),
        "expression": tf.constant([max(record.expression, 0) for record in records], tf.int32),
        "expression_probs": tf.constant(shares),
        "valence": tf.constant(np.nan_to_num(valence)),
        "arousal": tf.constant(np.nan_to_num(arousal)),
        "mask": {head: tf.constant(mask.astype(np.float32)) for head, mask in known.items()},
    }


def _paint(versions: list[dict], image_size: int) -> bytes:
    from PIL import Image, ImageDraw

    width, height = image_size + _MARGIN, image_size + 2 * _LINE + _MARGIN
    grid = Image.new("RGB", (width * len(versions) + _MARGIN, height * len(versions[0]["image"]) + _MARGIN), "white")
    pen = ImageDraw.Draw(grid)
    for column, batch in enumerate(versions):
        for row, pixels in enumerate(batch["image"].numpy()):
            left, top = _MARGIN + column * width, _MARGIN + row * height
            grid.paste(Image.fromarray(pixels), (left, top))
            pen.text((left, top + image_size), "\n".join(_labels(batch, row)), fill="black", font_size=10, spacing=1)
    stream = io.BytesIO()
    grid.save(stream, "PNG")
    return stream.getvalue()


def _labels(batch: dict, row: int) -> tuple[str, str]:
    """The two commonest expressions with their shares, and valence and arousal; "?" where a head is masked."""
    shares = batch["expression_probs"][row].numpy()
    commonest = [index for index in np.argsort(-shares, kind="stable")[:2] if shares[index] >= 0.01]
    names = [f"{EXPRESSIONS[index]} {shares[index]:.0%}" for index in commonest]
    scales = [
        f"{name[0]} {batch[name][row].numpy():+.2f}" if batch["mask"][name][row] > 0 else f"{name[0]} ?"
        for name in _SCALES
    ]
    return " ".join(names) or "?", " ".join(scales)


def main() -> None:
    """Runs the command."""
    flags.DEFINE_string("dataset_dir", None, "The published directory.", required=True)
    flags.DEFINE_string("output", None, "The PNG to write.", required=True)
    flags.DEFINE_integer("per_class", 1, "Faces of each expression.")
    flags.DEFINE_integer("image_size", 160, "Side of each face in pixels.")
    flags.DEFINE_integer("seed", 0, "Of the augmentation.")
    for field in dataclasses.fields(AugmentConfig):
        if field.name == "rand_augment":
            flags.DEFINE_list(field.name, [], "Transforms an image and their magnitude, as 2,0.5; empty is none.")
        elif field.name == "flip":
            flags.DEFINE_bool(field.name, field.default, "See AugmentConfig.")
        else:
            flags.DEFINE_float(field.name, field.default, "See AugmentConfig.")
    command.run(_preview)


def _preview() -> None:
    values = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(AugmentConfig)}
    if policy := values["rand_augment"]:
        try:
            values["rand_augment"] = (int(policy[0]), float(policy[1]))
        except (ValueError, IndexError):
            raise UsageError(f"--rand_augment={','.join(policy)} is not accepted; give for example 2,0.5") from None
    else:
        values["rand_augment"] = 0
    grid = draw_grid(
        flags.FLAGS.dataset_dir,
        AugmentConfig(**values),
        per_class=flags.FLAGS.per_class,
        image_size=flags.FLAGS.image_size,
        seed=flags.FLAGS.seed,
    )
    try:
        with open(flags.FLAGS.output, "wb") as file:
            file.write(grid)
    except OSError as error:
        raise EnvironmentFault(f"{flags.FLAGS.output} cannot be written: {error.strerror}") from error
    print(flags.FLAGS.output)


if __name__ == "__main__":
    main()
