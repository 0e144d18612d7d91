"""One index file that names images and any of their labels; for data in no other layout.

    RAW/labels.csv      image,expression,valence,arousal,split,group
                        faces/a.jpg,happy,0.8,0.3,train,anna
    RAW/faces/a.jpg

`image` is a path relative to RAW and is the id, extension included: a.jpg and a.png are two faces.
`expression` is a name, or a code in AffectNet's order unless --label_order says otherwise. An empty
label is unknown. A `split` column is filled in every row or absent. Which folders belong to the data
is not known, so a file that no row names is no input.
"""

import json
from collections.abc import Iterator

from pipeline.errors import DataError
from pipeline.records import EXPRESSIONS, Labels, Reject
from pipeline.sources import folders, tables
from pipeline.sources.base import Entry

COLUMNS = {
    "image": ("image", "path", "file", "filename", "image_path"),
    "expression": ("expression",),
    "valence": ("valence",),
    "arousal": ("arousal",),
    "split": ("split",),
    "group": ("group", "subject", "subject_id", "sequence"),
}
LABEL_COLUMNS = ("expression", "valence", "arousal")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class Csv(tables.ListedImages):
    """Rows of a CSV or TSV, columns by name."""

    layout = "labels.csv (or one other .csv or .tsv) with a column image and any of " + ", ".join(list(COLUMNS)[1:])
    label_order = EXPRESSIONS

    def scan(self) -> Iterator[Entry]:
        name = self._index_file()
        table = tables.Table(self.files.lines(name), name, columns=COLUMNS, required=("image",))
        label_columns = [column for column in LABEL_COLUMNS if column in table.columns]
        if not label_columns:
            raise DataError(f"{name} has no column with labels; add at least one of {', '.join(LABEL_COLUMNS)}")
        declares_split = "split" in table.columns

        def entry(row: tables.Row) -> Entry:
            path = self.files.check_path(row.text("image", tables.MAX_PATH))
            if not path:
                raise Reject("missing_image", "the row names no image")
            return Entry(
                id=path,
                path=path,
                split=split_name(row.text("split")) if declares_split else "",
                group=row.text("group"),
                payload=json.dumps({column: row.text(column) for column in label_columns}),
                line=row.line,
            )

        yield from table.entries(entry)

    def labels(self, entry: Entry) -> Labels:
        return tables.cell_labels(json.loads(entry.payload), self.order, missing_labels=self.options.missing_labels)

    def _index_file(self) -> str:
        names = [item.name for item in self.files.items() if item.kind == "file"]
        indexes = sorted(name for name in names if name.lower().endswith((".csv", ".tsv")))
        if "labels.csv" in indexes:
            return "labels.csv"
        if not indexes:
            raise DataError(f"{self.files.root} holds {folders.found(self.files)}; expected {self.layout}")
        if len(indexes) > 1:
            raise DataError(
                f"{self.files.root} holds {len(indexes)} index files: {', '.join(indexes[:5])}; "
                "keep one, or name the right one labels.csv"
            )
        return indexes[0]


def split_name(text: str) -> str:
    """The split that a cell declares.

    Raises:
      Reject: `bad_split`, for a name that is none, or an empty cell.
    """
    if text.lower() not in SPLIT_NAMES:
        raise Reject("bad_split", f"split {text!r} is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.lower()]
