"""How soon the first batch comes, and how much memory three epochs take, in a process of its own.

    python -m benchmarks.input_start --dataset_dir=DIR

Prints JSON: first_batch in seconds after the imports, memory in bytes after each epoch.
"""

import argparse
import json
import os
import time

EPOCHS = 3


def main() -> None:
    """Parses flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=224)
    flags = parser.parse_args()

    from datasets.augmentation import AugmentConfig
    from datasets.input_pipeline import make_train

    start = time.perf_counter()
    dataset = make_train(
        flags.dataset_dir, batch_size=flags.batch_size, image_size=flags.image_size, augment=AugmentConfig(),
        epochs=EPOCHS,
    )  # fmt: skip
    epoch = len(dataset) // EPOCHS
    first_batch, memory = 0.0, []
    for number, _ in enumerate(dataset, 1):
        first_batch = first_batch or time.perf_counter() - start
        if number % epoch == 0:
            memory.append(_resident())
    print(json.dumps({"first_batch": first_batch, "memory": memory}))


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
