"""Grain on the images of a dataset, with simplejpeg and OpenCV inside: `benchmarks.rivals` runs it.

It is given where each encoded image lies, and so parses no record.
"""

import json
import os
import pathlib
import sys

import cv2
import grain.python as grain
import numpy as np
import rival_protocol
import simplejpeg


class Images:
    """Encoded images by number."""

    def __init__(self, folder: pathlib.Path):
        self._rows = np.load(folder / "images.npy")
        self._paths = json.loads((folder / "shards.json").read_text())
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> bytes:
        shard, offset, length = self._rows[index].tolist()
        if shard not in self._files:
            self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return os.pread(self._files[shard], length, offset)


def decode(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return simplejpeg.decode_jpeg(data, "RGB")


def augment(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The default augmentation as one resampling and one table of values."""
    height, width = image.shape[:2]
    angle, zoom = generator.uniform(-15, 15), generator.uniform(0.9, 1.1)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1 / zoom)
    matrix[:, 2] += generator.uniform(-0.1, 0.1, 2) * (width, height)
    if generator.random() < 0.5:
        matrix = matrix @ np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    mean = np.array(cv2.mean(moved)[:3])
    levels = np.arange(256)[:, np.newaxis] + generator.uniform(-25.5, 25.5)
    table = np.clip((levels - mean) * generator.uniform(0.9, 1.1) + mean, 0, 255).round().astype(np.uint8)
    return cv2.LUT(moved, table[np.newaxis])


def batches(task: str):
    """Endless batches."""
    dataset = grain.MapDataset.source(Images(pathlib.Path(sys.argv[1]))).seed(0).shuffle().repeat().map(decode)
    if task == "augment":
        dataset = dataset.random_map(augment)
    # Grain would hold 500 elements ready in each worker; it is told to hold two batches.
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * rival_protocol.BATCH_SIZE)
    batched = dataset.to_iter_dataset(ahead).batch(rival_protocol.BATCH_SIZE)
    workers = grain.MultiprocessingOptions(num_workers=len(os.sched_getaffinity(0)), per_worker_buffer_size=2)
    return iter(batched.mp_prefetch(workers))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    rival_protocol.serve(batches)
