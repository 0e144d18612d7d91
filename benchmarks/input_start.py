"""How soon the first batch comes, and how much memory three epochs take, in a process of its own.

    python -m benchmarks.input_start --dataset_dir=DIR [--start_epoch=2 --start_position=1280]

Prints JSON: first_batch in seconds after the imports; the highest memory in each epoch and its mean, in bytes.
"""

import argparse
import json
import statistics
import time

from benchmarks import measure

EPOCHS = 3


def main() -> None:
    """Parses flags, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--start_epoch", type=int, default=0, help=f"the stream begins here, and ends after {EPOCHS}")
    parser.add_argument("--start_position", type=int, default=0, help="in examples, a multiple of --batch_size")
    parser.add_argument("--first_batch_only", action="store_true", help="end after it")
    flags = parser.parse_args()

    from datasets.augmentation import AugmentConfig
    from datasets.input_pipeline import make_train

    start = time.perf_counter()
    dataset = make_train(
        flags.dataset_dir, batch_size=flags.batch_size, image_size=flags.image_size, augment=AugmentConfig(),
        epochs=EPOCHS, start=(flags.start_epoch, flags.start_position),
    )  # fmt: skip
    epoch = (len(dataset) + flags.start_position // flags.batch_size) // (EPOCHS - flags.start_epoch)
    first_batch, sizes, highest, mean = 0.0, [], [], []
    for number, _ in enumerate(dataset, 1 + flags.start_position // flags.batch_size):
        first_batch = first_batch or time.perf_counter() - start
        if flags.first_batch_only:
            break
        sizes.append(measure.resident())
        if number % epoch == 0:
            highest.append(measure.highest_resident())
            mean.append(statistics.mean(sizes))
            sizes.clear()
            measure.forget_highest()
    print(json.dumps({"first_batch": first_batch, "highest": highest, "mean": mean}))


if __name__ == "__main__":
    main()
