"""Reads one batch of a converted dataset as any user of TFDS would: nothing of this project is imported.

python scripts/read_back.py DATA_DIR/affect_faces/NAME/1.0.0
"""

import os
import sys

import tensorflow_datasets as tfds

# Read when TensorFlow is imported, which TFDS does when it reads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH = 8


def main(dataset_dir: str) -> None:
    """Prints the splits and the first batch of the largest one."""
    builder = tfds.builder_from_directory(dataset_dir)
    for split, info in builder.info.splits.items():
        print(f"{split:<12}{info.num_examples:>9,} examples, shards: {info.num_shards}")

    split = max(builder.info.splits.values(), key=lambda info: info.num_examples).name
    # Padded, because faces may differ in size.
    (batch,) = tfds.as_numpy(builder.as_dataset(split=f"{split}[:{BATCH}]").padded_batch(BATCH))
    print(f"\nA batch of {split}:")
    for name, values in batch.items():
        print(f"  {name:<18}{values.dtype!s:<9}{values.shape}")

    names = builder.info.features["expression"].names
    print()
    for key, label, valence, arousal in zip(batch["id"], batch["expression"], batch["valence"], batch["arousal"]):
        expression = names[label] if label >= 0 else "unknown"
        print(f"  {key.decode():<24}{expression:<10} valence {valence:+.2f}  arousal {arousal:+.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
