"""DALI on the records of a dataset, on the processor alone: `benchmarks.rivals` runs it."""

import json
import os
import pathlib
import sys

import rival_protocol
from nvidia.dali import fn, pipeline_def, tfrecord, types

SIZE = 224


@pipeline_def
def faces(paths: list[str], indices: list[str], augmented: bool):
    """Decoded, and with the default augmentation as one resampling and one colour pass."""
    record = fn.readers.tfrecord(
        path=paths,
        index_path=indices,
        features={"image": tfrecord.FixedLenFeature((), tfrecord.string, "")},
        random_shuffle=True,
        initial_fill=1024,
    )
    images = fn.decoders.image(record["image"], device="cpu", output_type=types.RGB)
    if not augmented:
        return images
    middle = [SIZE / 2, SIZE / 2]
    mirrored = 1.0 - 2.0 * fn.cast(fn.random.coin_flip(), dtype=types.FLOAT)
    zoom = 1.0 / fn.random.uniform(range=(0.9, 1.1))
    matrix = fn.transforms.scale(scale=fn.stack(mirrored * zoom, zoom), center=middle)
    matrix = fn.transforms.rotation(matrix, angle=fn.random.uniform(range=(-15.0, 15.0)), center=middle)
    shift = fn.random.uniform(range=(-0.1 * SIZE, 0.1 * SIZE), shape=(2,))
    matrix = fn.transforms.translation(matrix, offset=shift)
    moved = fn.warp_affine(images, matrix=matrix, inverse_map=False, interp_type=types.INTERP_LINEAR, fill_value=0)
    return fn.brightness_contrast(
        moved,
        brightness_shift=fn.random.uniform(range=(-0.1, 0.1)),
        contrast=fn.random.uniform(range=(0.9, 1.1)),
    )


def batches(task: str):
    """Endless batches."""
    folder = pathlib.Path(sys.argv[1])
    paths = json.loads((folder / "shards.json").read_text())
    pipeline = faces(
        paths,
        [str(folder / f"{index}.idx") for index in range(len(paths))],
        task == "augment",
        batch_size=rival_protocol.BATCH_SIZE,
        num_threads=len(os.sched_getaffinity(0)),
        device_id=None,
    )
    pipeline.build()
    while True:
        yield pipeline.run()


if __name__ == "__main__":
    rival_protocol.serve(batches)
