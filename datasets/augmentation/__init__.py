"""Augmentation of batches of faces: what keras-cv's layers do, in one resampling and one colour pass.

    config = AugmentConfig(rotation=20.0, mixup=0.2)
    batch = augment_batch(batch, config, seeds)

Importing this package is cheap; TensorFlow comes with the first call.
"""

from collections.abc import Callable

from datasets.augmentation.config import AugmentConfig

__all__ = ["AugmentConfig", "augment_batch"]


def augment_batch(batch: dict, config: AugmentConfig, seeds, *, transform: Callable | None = None) -> dict:
    """Augments one batch; see `datasets.augmentation.batch.augment_batch`."""
    from datasets.augmentation import batch as compiled

    return compiled.augment_batch(batch, config, seeds, transform=transform)
