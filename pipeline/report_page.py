"""The report as one HTML file that needs no network: metadata, figures and sample faces in a template."""

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pipeline import report_data, report_plots
from pipeline.errors import EnvironmentFault, UsageError
from pipeline.files import printable
from pipeline.records import EXPRESSIONS, FILTER_REASONS, REJECTION_REASONS
from pipeline.tfrecord import atomic_file

_FACES_PER_CLASS = 10
_EXAMPLES_PER_REASON = 5
_MOST_SIZES = 12
#: Long side of a sample face in pixels; shown at half of it, for dense screens.
_THUMBNAIL_SIDE = 192


def write_report(dataset_dir: str | os.PathLike, output: str | os.PathLike) -> None:
    """Writes the page; the same dataset gives the same bytes.

    Args:
      dataset_dir: a published directory, DATA_DIR/affect_faces/NAME/VERSION; shown on the page as it is given.
      output: the HTML file; it is replaced, and appears complete or not at all.

    Raises:
      UsageError: `output` lies in the dataset directory.
      DataError: metadata or a sampled record is missing or damaged; names the file and the field or record.
      EnvironmentFault: a file cannot be read, or `output` cannot be written.
    """
    if os.path.realpath(os.path.dirname(output)) == os.path.realpath(dataset_dir):
        raise UsageError(
            f"--output={os.fspath(output)} lies in the dataset, whose files are final; give another folder"
        )
    page = render(report_data.load(dataset_dir)).encode("utf-8", "backslashreplace")
    try:
        with atomic_file(output) as file:
            file.write(page)
    except OSError as error:
        raise EnvironmentFault(
            f"--output={os.fspath(output)} cannot be written: {error.strerror}; give a file in a writable folder"
        ) from None


def render(published: report_data.Published) -> str:
    """The page as HTML text.

    Raises:
      DataError: `rejected.jsonl` or a sampled record is damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number="{:,}".format, percent=_percent, signed=_signed, size=_size, json=_json)
    statistics = published.statistics
    splits = {name: statistics["splits"][name] for name in published.splits}
    points = report_data.valence_arousal(published)
    return environment.get_template("report.html").render(
        manifest=published.manifest,
        statistics=statistics,
        splits=splits,
        digest=published.digest,
        folder=printable(published.folder),
        classes=[*EXPRESSIONS, "unknown"],
        expressions=EXPRESSIONS,
        colours=report_plots.COLOURS,
        faces={
            name: [_sample(face) for face in faces]
            for name, faces in report_data.sample_faces(published, _FACES_PER_CLASS)
        },
        densities={
            name: report_plots.density(split, statistics["histogram_edges"])
            for name, split in splits.items()
            if split["valence"] or split["arousal"]
        },
        circumplex=report_plots.circumplex(points) if points else "",
        planes={name: report_plots.one_class(name, points) for name in points},
        points={name: len(pairs) for name, pairs in points.items()},
        sizes=_commonest(statistics["image_sizes"])[:_MOST_SIZES],
        formats=_commonest(statistics["formats"]),
        census=_commonest(statistics["census"]),
        rejected=_commonest(statistics["rejected_by_reason"]),
        rejected_examples=report_data.rejected_examples(published, _EXAMPLES_PER_REASON),
        rejection_reasons=REJECTION_REASONS,
        filtered=_commonest(statistics["filtered_by_reason"]),
        filtered_examples=report_data.filtered_examples(published, _EXAMPLES_PER_REASON),
        filter_reasons=FILTER_REASONS,
    )


def _sample(face: report_data.Face) -> dict[str, Any]:
    image = Image.open(io.BytesIO(face.record.image))
    width, height = image.size
    image.draft("RGB", (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    image = image.convert("RGB")
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    landmarks = face.record.landmarks
    return {
        "image": "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(),
        "width": width,
        "height": height,
        "id": face.record.id,
        "split": face.split,
        "labels": " ".join(
            f"{letter} {_signed(value)}"
            for letter, value in (("v", face.record.valence), ("a", face.record.arousal))
            if not math.isnan(value)
        ),
        "landmarks": "" if landmarks is None else "".join(f"M{x:.1f} {y:.1f}h0" for x, y in landmarks.tolist()),
    }


def _commonest(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _size(count: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
