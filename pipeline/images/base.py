"""What one encoded image has to tell, whatever its format, and the arithmetic that formats share."""

import abc
import contextlib
from collections.abc import Iterator

import numpy as np
from PIL import ImageFile

from pipeline.records import Reject

#: Files of more segments, chunks or blocks than this were made to cost time; a 40-megapixel GIF has half as many.
MAX_PARTS = 500_000

#: Words in a decoder's message, and the reason that they stand for; all else is `corrupt`.
_REASONS = {"truncated": "truncated", "Unsupported": "unsupported_format"}
_BAND_ROWS = 64


class EncodedImage(abc.ABC):
    """An image file whose structure was read and whose pixels were not.

    The constructor walks the whole file and raises Reject for what the structure alone shows; it allocates
    nothing in proportion to the pixels.

    Attributes:
      width, height: as stored in the file, before EXIF rotation; at least 1.
      orientation: EXIF orientation, 1 to 8.
      lossless: whether the format keeps pixels exactly; the record then holds PNG, else JPEG.
      plain: whether the pixels are 8-bit grey or RGB in JPEG or PNG, so that they can be kept bit for bit.
      notes: what is unusual and counted.
    """

    format: str
    lossless: bool
    plain: bool = False
    width: int
    height: int
    orientation: int = 1

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abc.abstractmethod
    def verify(self) -> None:
        """Decodes strictly, as cheaply as the format allows.

        Raises:
          Reject: `truncated` or `corrupt`.
        """

    @abc.abstractmethod
    def pixels(self) -> np.ndarray:
        """The pixels as uint8, (height, width) grey or (height, width, 3) RGB, alpha over black, not yet rotated.

        Raises:
          Reject: `truncated` or `corrupt`.
        """

    def stripped(self) -> bytes:
        """The same pixels, bit for bit, without metadata and trailing bytes; only where `plain`."""
        raise NotImplementedError(f"{self.format} pixels cannot be kept as they are")


@contextlib.contextmanager
def third_party_decoder(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises on hostile bytes into a Reject.

    Pillow alone raises OSError, ValueError, SyntaxError, NotImplementedError, IndexError, struct.error …
    """
    # TFDS sets this for the whole process when it shows a picture: a cut image would pass as a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except Reject:
        raise
    except Exception as error:
        reason = next((reason for word, reason in _REASONS.items() if word in str(error)), "corrupt")
        raise Reject(reason, f"{name}: {type(error).__name__}: {error}") from None


def multiplied(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """values × factors / 255, rounded, of (height, width, …) uint8: colour by its alpha, or ink by its black."""
    result = np.empty_like(values)
    for start in range(0, len(values), _BAND_ROWS):
        band = slice(start, start + _BAND_ROWS)
        result[band] = (values[band].astype(np.uint16) * factors[band] + 127) // 255
    return result


def over_black(pixels: np.ndarray) -> np.ndarray:
    """(height, width, 2 or 4) uint8 with alpha last, as grey or RGB over black."""
    colour = multiplied(pixels[..., :-1], pixels[..., -1:])
    return colour[..., 0] if colour.shape[2] == 1 else colour
