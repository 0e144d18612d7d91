"""What an annotation layout has to tell the job.

A source does two things. In the driver, `scan` lists the inputs without opening an image; in the
workers, `labels` and `raw` read one of them. Nothing else in the job knows a layout.
"""

import abc
import dataclasses
from collections.abc import Iterator

from pipeline.files import InputFiles
from pipeline.records import Labels

#: Splits that a source may declare.
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One input as listed: where its bytes are and what the listing already knows.

    Attributes:
      id: stable, unique within the source, relative; UTF-8.
      path: of the image's bytes, relative to the input directory; "" when there is none.
      offset, length: the part of the file that holds them; length -1 is the whole file.
      codec: how that part is stored: "" as it is, "zip" a zip member whose local header is at `offset`.
      split: one of SPLITS when the layout declares it, else "".
      group: subject or sequence, else "" (the id is then the group).
      payload: what `labels` needs from the listing, as text of the source's own form.
      line: line number in an index file, 0 when there is none.
      reason, detail: when the listing alone rejects the input (`missing_image`, `bad_row` …).
    """

    id: str
    path: str = ""
    offset: int = 0
    length: int = -1
    codec: str = ""
    split: str = ""
    group: str = ""
    payload: str = ""
    line: int = 0
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """What the command line can say to a source.

    Attributes:
      label_order: names for codes 0, 1, 2 …, or () for the source's own order.
      box_margin: how far a crop reaches beyond the face box, as a fraction of the box's longer side.
      missing_labels: "mask" keeps a face whose label files are partly missing, "reject" rejects it.
      archive: the zip in the input directory that --input_dir named itself, for a source that reads one; else "".
    """

    label_order: tuple[str, ...] = ()
    box_margin: float = 0.1
    missing_labels: str = "mask"
    archive: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A crop in pixels of the upright source image, before it is clipped to it; may be fractional."""

    left: float
    top: float
    right: float
    bottom: float


class Source(abc.ABC):
    """An annotation layout. Instances are made anew in the driver and in each worker."""

    #: One line for --help and for "expected …" in errors.
    layout: str
    #: What code 0, 1, 2 … means, or () where the layout has names.
    label_order: tuple[str, ...] = ()

    def __init__(self, files: InputFiles, options: SourceOptions):
        self.files = files
        self.options = options
        self.order = options.label_order or self.label_order

    @abc.abstractmethod
    def scan(self) -> Iterator[Entry]:
        """Lists every input, in any order, opening no image; index files are streamed once.

        Raises:
          DataError: the layout is not there; the message says what was found and what was expected.
        """

    @abc.abstractmethod
    def labels(self, entry: Entry) -> Labels:
        """Reads and checks the annotations of one input.

        Raises:
          Reject: with the reason.
        """

    def raw(self, entry: Entry) -> bytes:
        """The bytes that are hashed and compared between the two passes."""
        return self.files.read(entry.path, entry.offset, entry.length, entry.codec)

    def encoded(self, entry: Entry, raw: bytes) -> bytes:
        """The bytes as an encoded image; other than `raw` where the source stores bare pixels."""
        return raw

    def box(self, entry: Entry) -> Box | None:
        """The crop of this input, margin included; None keeps the whole image."""
        return None

    def paths(self, entry: Entry) -> tuple[str, ...]:
        """Every file that `labels` and `raw` read for this input; a resumed run looks whether they changed."""
        return (entry.path,) if entry.path else ()
