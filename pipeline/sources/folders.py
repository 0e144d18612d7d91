"""The folders `images/` and `annotations/` side by side, as AffectNet and AffectNet+ have them.

Either the input directory holds the two, or each of its split folders does.
"""

from collections.abc import Callable, Iterator

from pipeline.errors import DataError
from pipeline.files import InputFiles, Item, printable
from pipeline.sources.base import Entry

#: What may be an image, by the end of its name; the bytes decide later whether it is one.
IMAGE_EXTENSIONS = frozenset(("jpg", "jpeg", "jpe", "png", "bmp", "gif", "webp", "tif", "tiff", "avif", "heic", "jxl"))
#: AffectNet says `val_set`, AffectNet+ `validation_set`.
SPLIT_FOLDERS = ("train_set", "val_set", "validation_set", "test_set")
#: Added to the flags of an id when its image was listed.
_HAS_IMAGE = 1 << 8


def image_id(name: str) -> str:
    """The name without its extension when that is an image's, in any case; else ""."""
    stem, _, extension = name.rpartition(".")
    return stem if extension.lower() in IMAGE_EXTENSIONS else ""


def scan(files: InputFiles, *, layout: str, annotation: Callable[[str], tuple[str, int] | None]) -> Iterator[Entry]:
    """One entry for each image, and one for each listed name that belongs to none.

    Memory is one dict entry for each id, whatever the number of annotation files. Names that are
    neither image nor annotation are `unknown_file`, with the path as id.

    Args:
      layout: for the error message.
      annotation: (id, flag below 256) for the name of an annotation file, None when it is not one.

    Yields:
      Entries in no order; `payload` is the sum of the flags of the annotation files. Ids begin with
      the split folder, since the same number in two of them is another face.

    Raises:
      DataError: another layout, or nothing in it.
    """
    entry = None
    for folder, split in _split_folders(files, layout).items():
        for entry in _pairs(files, folder, split, annotation):
            yield entry
    if entry is None:
        raise DataError(f"images/ and annotations/ in {files.root} hold nothing; expected {layout}")


def found(files: InputFiles, folder: str = "") -> str:
    """The first names in a folder, for an error message."""
    names = sorted(printable(item.name) for item in files.items(folder))
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "nothing"


def annotation_path(id: str, suffix: str) -> str:
    """The path of an annotation file: `suffix` ("_exp.npy") completes the name."""
    folder, slash, stem = id.rpartition("/")
    return f"{folder}{slash}annotations/{stem}{suffix}"


def unusable(item: Item, parent: str, split: str = "") -> Entry:
    """The rejected entry of a name that cannot be used, or that is neither image nor annotation.

    Args:
      item: as listed.
      parent: the folder, with its slash.
      split: that the folder declares.
    """
    path = parent + printable(item.name)
    if item.kind == "bad_name":  # no path can be kept of it
        return Entry(path, split=split, reason="bad_name", detail=item.detail)
    if item.kind == "unsafe_path":
        return Entry(path, path, split=split, reason="unsafe_path", detail=item.detail)
    detail = "a folder" if item.kind == "folder" else "a name that the layout has no place for"
    return Entry(path, path, split=split, reason="unknown_file", detail=detail)


def _split_folders(files: InputFiles, layout: str) -> dict[str, str]:
    """The folders that hold `images/` and `annotations/`, each with its declared split.

    The validation set of AffectNet is what papers test on: it is `test`, unless there is a `test_set`
    too. "" stands for the input directory itself, with no declared split.
    """
    present = [folder for folder in SPLIT_FOLDERS if files.has_folder(folder)]
    flat = files.has_folder("images") or files.has_folder("annotations")
    if flat and present:
        raise DataError(
            f"{files.root} holds images/ or annotations/ and {present[0]}/ too; move one form out: expected {layout}"
        )
    validation = "validation" if "test_set" in present else "test"
    splits = dict(zip(SPLIT_FOLDERS, ("train", validation, validation, "test"), strict=True))
    folders = {folder: splits[folder] for folder in present} or {"": ""}
    for folder in folders:
        for needed in ("images", "annotations"):
            if not files.has_folder(_join(folder, needed)):
                raise DataError(
                    f"{_join(folder, needed)}/ is missing in {files.root}; "
                    f"{folder or 'that'} holds {found(files, folder)}; expected {layout}"
                )
    return folders


def _pairs(
    files: InputFiles, folder: str, split: str, annotation: Callable[[str], tuple[str, int] | None]
) -> Iterator[Entry]:
    prefix = f"{folder}/" if folder else ""
    flags: dict[str, int] = {}
    for item in files.items(_join(folder, "annotations")):
        known = annotation(item.name) if item.kind != "folder" else None
        if known and item.kind != "bad_name":
            flags[known[0]] = flags.get(known[0], 0) | known[1]
        else:
            yield unusable(item, f"{prefix}annotations/", split)
    for item in files.items(_join(folder, "images")):
        stem = image_id(item.name)
        if not stem or item.kind in ("folder", "bad_name"):
            yield unusable(item, f"{prefix}images/", split)
            continue
        path = f"{prefix}images/{item.name}"
        if stem in flags:
            flags[stem] |= _HAS_IMAGE
            yield Entry(prefix + stem, path, split=split, payload=str(flags[stem] - _HAS_IMAGE))
        else:
            yield Entry(prefix + stem, path, split=split, reason="missing_annotation", detail=f"{path!r} alone")
    for stem, flag in flags.items():
        if not flag & _HAS_IMAGE:
            yield Entry(
                prefix + stem,
                split=split,
                reason="missing_image",
                detail=f"no {prefix}images/{stem} with an image's extension",
            )


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
