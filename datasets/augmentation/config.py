"""Which augmentations run, and how strongly. Standard library only."""

import dataclasses

from pipeline.errors import UsageError

#: The largest value of each field; the smallest is 0. Rotation is in degrees, the rest are fractions, as in keras-cv.
_LARGEST = {"rotation": 180.0, "zoom": 0.9, "translation": 1.0, "brightness": 1.0, "contrast": 1.0, "cutout": 1.0}


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """The augmentations, in the order in which they are applied; 0 (or False) turns one off.

    Attributes:
      flip: mirror left and right, with probability one half.
      rotation: turn about the centre by up to this many degrees either way.
      zoom: scale about the centre by a factor of 1 - zoom to 1 + zoom of the field of view, one for both axes.
      translation: shift by up to this fraction of the height and, drawn apart, of the width.
      brightness: add up to this fraction of 255 either way, then clip.
      contrast: multiply the distance from each channel's mean by 1 - contrast to 1 + contrast, then clip.
      rand_augment: (transforms an image, magnitude in [0, 1]) of RandAugment (https://arxiv.org/abs/1909.13719), or 0.
      cutout: blacken a rectangle whose sides are up to this fraction of its own (https://arxiv.org/abs/1708.04552).
      mixup: alpha of mixup (https://arxiv.org/abs/1710.09412).
      cutmix: alpha of CutMix (https://arxiv.org/abs/1905.04899). With mixup, chance picks one of the two.

    Raises:
      UsageError: a value is out of its range.
    """

    flip: bool = True
    rotation: float = 15.0
    zoom: float = 0.1
    translation: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.1
    rand_augment: tuple[int, float] | int = 0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        for name, largest in _LARGEST.items():
            if not 0 <= getattr(self, name) <= largest:
                raise UsageError(f"{name}={getattr(self, name)} is not accepted; give 0 (off) to {largest:g}")
        for name in ("mixup", "cutmix"):
            if not (getattr(self, name) == 0 or 0.01 <= getattr(self, name) <= 100):
                raise UsageError(f"{name}={getattr(self, name)} is not accepted; give 0 (off) or 0.01 to 100")
        if self.rand_augment != 0:
            try:
                layers, magnitude = self.rand_augment
                accepted = isinstance(layers, int) and 1 <= layers <= 10 and 0 <= magnitude <= 1
            except (TypeError, ValueError):
                accepted = False
            if not accepted:
                raise UsageError(
                    f"rand_augment={self.rand_augment!r} is not accepted; give 0 (off) or (1 to 10 transforms, "
                    "a magnitude from 0 to 1)"
                )

    @property
    def geometric(self) -> bool:
        """Whether the chain of flip, rotation, zoom and translation moves a pixel."""
        return bool(self.flip or self.rotation or self.zoom or self.translation)

    @property
    def resamples(self) -> bool:
        """Whether images go through `geometry.warp`, which limits their size."""
        return bool(self.geometric or self.brightness or self.contrast or self.rand_augment)
