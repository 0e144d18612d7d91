"""The files beside the shards: TFDS's two, and ours, which account for every input.

features.json, dataset_info.json, expression.labels.txt    as TFDS writes them
records.parquet     one row per input, wherever it went
rejected.jsonl      one line per rejected input
statistics.json     counts, weights, histograms
manifest.json       every file above and every shard with its sha256; its own digest is the dataset's
"""

import hashlib
import json
import os
from collections.abc import Iterator
from importlib import metadata as installed

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import listing, planning, staging, statistics, tfrecord
from pipeline.errors import InvariantError
from pipeline.records import DATASET, EXPRESSIONS, LANDMARKS, NO_SHARES, VERSION
from pipeline.sources.base import SPLITS
from pipeline.tasks import Job

FORMAT = 1
DESCRIPTION = (
    "Faces with apparent expression (eight classes in AffectNet's order, -1 when unknown), expression vote shares, "
    "valence and arousal in [-1, 1] (NaN when unknown) and 68 landmarks in pixels (NaN when absent)."
)
_DECIDING_LIBRARIES = ("numpy", "pillow", "protobuf", "pyarrow", "simplejpeg")

#: Of `manifest.json`, in the notation of `documents.parse`.
MANIFEST = {
    "format": int,
    "dataset": str,
    "name": str,
    "version": str,
    "settings": {"*": object},
    "versions": {"*": str},
    "input": {"count": int, "digest": str},
    "shards": [{"file": str, "split": str, "records": int, "bytes": int, "record_bytes": int, "sha256": str}],
    "files": {"*": str},
}
RECORDS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("position", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("expression", pa.int8()),
        ("expression_probs", pa.list_(pa.float32(), len(EXPRESSIONS))),
        ("valence", pa.float32()),
        ("arousal", pa.float32()),
        ("has_landmarks", pa.bool_()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("format", pa.string()),
        ("verbatim", pa.bool_()),
        ("source", pa.string()),
        ("source_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("notes", pa.list_(pa.string())),
    ]
)


def write_metadata(job: Job) -> None:
    """Completes `out/`, after checking that inputs = written + rejected + filtered from independent counts.

    Raises:
      InvariantError: the counts disagree, or a shard is missing.
    """
    where = job.staging
    plan = staging.read_json(where.plan_path("plan.json"))
    shards = [_written(where, task) for task in plan["shards"]]
    _remove_strays(where, [shard["file"] for shard in shards])

    counts = statistics.count(job)
    for name, split in counts["splits"].items():
        split["bytes"] = sum(shard["bytes"] for shard in shards if shard["split"] == name)
    inputs, rejected, digest = _write_rows(job, plan["shards"])
    written = sum(shard["records"] for shard in shards)
    if (
        not inputs == written + rejected + counts["filtered"]
        or inputs != counts["inputs"]
        or written != counts["written"]
    ):
        raise InvariantError(
            f"{inputs} inputs are not {written} written + {rejected} rejected + {counts['filtered']} filtered; "
            "nothing is published"
        )
    staging.write_json(os.path.join(where.out, "statistics.json"), {"format": FORMAT} | counts)
    _write_tfds(job, shards)
    _write_manifest(job, shards, inputs, digest)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a published byte may depend on."""
    return {name: installed.version(name) for name in _DECIDING_LIBRARIES}


def describe(name: str, source: str) -> str:
    """What sets the dataset `name` apart from others of the same features, in one line."""
    return f"{name}, converted from the layout {source}"


def _written(where: staging.Staging, task: dict) -> dict:
    path = os.path.join(where.out, task["shard"])
    done = where.write_path(task["shard"], ".json")
    if not os.path.exists(path) or not os.path.exists(done):
        raise InvariantError(f"shard {task['shard']} was not written")
    record = staging.read_json(done)
    if record["key"] != task["key"] or record["records"] != task["records"] or record["bytes"] != os.path.getsize(path):
        raise InvariantError(f"shard {task['shard']} does not match its plan")
    return {"file": task["shard"], "split": task["split"]} | {
        k: record[k] for k in ("records", "bytes", "record_bytes", "sha256")
    }


def _remove_strays(where: staging.Staging, shards: list[str]) -> None:
    """What a killed run or an earlier plan left must not be published."""
    for name in set(os.listdir(where.out)) - set(shards):
        os.unlink(os.path.join(where.out, name))


def _write_rows(job: Job, tasks: list[dict]) -> tuple[int, int, str]:
    """Writes records.parquet and rejected.jsonl; returns (inputs, rejected, digest of the inputs)."""
    where = job.staging
    places = _places(where, tasks)
    inputs, rejected, digest = 0, 0, hashlib.sha256()
    with (
        tfrecord.atomic_file(os.path.join(where.out, "records.parquet")) as parquet_file,
        tfrecord.atomic_file(os.path.join(where.out, "rejected.jsonl")) as rejected_file,
        pq.ParquetWriter(parquet_file, RECORDS_SCHEMA, compression="zstd") as parquet,
    ):
        for scanned, verified in listing.batches(where):
            here = {name: array[inputs : inputs + len(verified)] for name, array in places.items()}
            rows = _rows(scanned, verified, here)
            parquet.write_table(rows)
            inputs += len(verified)
            for fields in zip(*(rows[name].to_pylist() for name in ("id", "sha256", "reason"))):
                digest.update("\0".join(fields).encode() + b"\n")
            for line in _rejected_lines(rows, verified):
                rejected_file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                rejected += 1
    return inputs, rejected, digest.hexdigest()


def _places(where: staging.Staging, tasks: list[dict]) -> dict[str, np.ndarray]:
    """Where each input went, as flat arrays over all inputs (26 bytes an input)."""
    order = staging.read_array(where.plan_path("order.npy"))
    outcome = staging.read_array(where.plan_path("outcome.npy"))
    places = {name: np.full(len(outcome), -1, np.int32) for name in ("shard", "position")}
    places |= {name: np.full(len(outcome), -1, np.int64) for name in ("offset", "length")}
    places |= {"outcome": outcome, "split": staging.read_array(where.plan_path("split.npy"))}
    seen: dict[str, int] = {}
    for task in tasks:
        rows = order[task["start"] : task["start"] + task["records"]]
        places["shard"][rows] = seen[task["split"]] = seen.get(task["split"], -1) + 1
        places["position"][rows] = np.arange(len(rows))
        places["offset"][rows], places["length"][rows] = staging.read_array(where.write_path(task["shard"], ".npy")).T
    return places


def _rows(scanned: pa.Table, verified: pa.Table, places: dict[str, np.ndarray]) -> pa.Table:
    """The rows of records.parquet for a batch of inputs."""
    outcome = np.asarray(places["outcome"])
    shares = [NO_SHARES if bits is None else np.frombuffer(bits, "<f4") for bits in verified["shares"].to_pylist()]
    filtered = pa.array(np.array(planning.OUTCOMES)[np.maximum(outcome, 0)])
    columns = {name: verified[name] for name in verified.column_names if name in RECORDS_SCHEMA.names}
    columns |= {name: places[name] for name in ("shard", "position", "offset", "length")}
    columns |= {
        "id": scanned["id"],
        "group": pc.if_else(pc.equal(scanned["group"], ""), scanned["id"], scanned["group"]),
        "split": np.array((*SPLITS, ""))[places["split"]],
        "expression_probs": pa.array(np.concatenate(shares).astype(np.float32)),
        "valence": pc.fill_null(verified["valence"], np.nan),
        "arousal": pc.fill_null(verified["arousal"], np.nan),
        "has_landmarks": pc.is_valid(verified["landmarks"]),
        "source": _references(scanned),
        "sha256": ["" if digest is None else digest.hex() for digest in verified["sha256"].to_pylist()],
        "status": np.array(("written", "filtered", "rejected"))[np.sign(outcome)],
        "reason": pc.if_else(pc.equal(verified["reason"], ""), filtered, verified["reason"]),
    }
    columns["expression_probs"] = pa.FixedSizeListArray.from_arrays(columns["expression_probs"], len(EXPRESSIONS))
    return pa.table([columns[field.name] for field in RECORDS_SCHEMA], schema=RECORDS_SCHEMA)


def _references(scanned: pa.Table) -> pa.Array:
    """PATH, or PATH#OFFSET for a part of a file."""
    part = pc.binary_join_element_wise(scanned["path"], pc.cast(scanned["offset"], pa.string()), "#")
    return pc.if_else(pc.less(scanned["length"], 0), scanned["path"], part)


def _rejected_lines(rows: pa.Table, verified: pa.Table) -> Iterator[dict]:
    mask = pc.not_equal(verified["reason"], "")
    stages = verified.filter(mask)["stage"].to_pylist()
    columns = rows.select(["id", "source", "reason", "detail", "source_bytes", "sha256"]).filter(mask).to_pylist()
    for stage, (id, source, reason, detail, size, digest) in zip(stages, map(dict.values, columns)):
        yield {
            "id": id, "source": source, "stage": stage, "reason": reason, "detail": detail, "bytes": size,
            "sha256": digest,
        }  # fmt: skip


def _write_tfds(job: Job, shards: list[dict]) -> None:
    """The three files that `tfds.builder_from_directory` reads, as TFDS 4.9 writes them."""
    out = job.staging.out
    splits = []
    for name in SPLITS:
        members = [shard for shard in shards if shard["split"] == name]
        if members:
            splits.append(
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": name,
                    "numBytes": str(sum(shard["record_bytes"] for shard in members)),
                    "shardLengths": [str(shard["records"]) for shard in members],
                }
            )
    info = {
        "configDescription": describe(job.settings.name, job.settings.source),
        "configName": job.settings.name,
        "description": DESCRIPTION,
        "fileFormat": "tfrecord",
        "moduleName": "datasets.affect_faces.affect_faces_dataset_builder",
        "name": DATASET,
        "splits": splits,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "expression"}]}},
        "version": VERSION,
    }
    staging.write_json(os.path.join(out, "dataset_info.json"), info)
    staging.write_json(os.path.join(out, "features.json"), _features())
    with tfrecord.atomic_file(os.path.join(out, "expression.labels.txt")) as file:
        file.write("".join(f"{name}\n" for name in EXPRESSIONS).encode())


def _features() -> dict:
    def feature(kind: str, **content) -> dict:
        return {"pythonClassName": f"tensorflow_datasets.core.features.{kind}", **content}

    def tensor(kind: str, *shape: int) -> dict:
        dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
        return feature(kind, tensor={"dtype": "float32", "encoding": "none", "shape": dimensions})

    features = {
        "image": feature("image_feature.Image", image={"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}),
        "expression": feature("class_label_feature.ClassLabel", classLabel={"numClasses": str(len(EXPRESSIONS))}),
        "expression_probs": tensor("tensor_feature.Tensor", len(EXPRESSIONS)),
        "valence": tensor("scalar.Scalar"),
        "arousal": tensor("scalar.Scalar"),
        "landmarks": tensor("tensor_feature.Tensor", LANDMARKS, 2),
        "id": feature("text_feature.Text", text={}),
        "group": feature("text_feature.Text", text={}),
    }
    return feature("features_dict.FeaturesDict", featuresDict={"features": features})


def _write_manifest(job: Job, shards: list[dict], inputs: int, digest: str) -> None:
    out = job.staging.out
    files = sorted(set(os.listdir(out)) - {shard["file"] for shard in shards})
    manifest = {
        "format": FORMAT,
        "dataset": DATASET,
        "name": job.settings.name,
        "version": VERSION,
        "settings": job.settings.deciding_bytes(),
        "versions": library_versions(),
        "input": {"count": inputs, "digest": digest},
        "shards": shards,
        "files": {name: staging.file_digest(os.path.join(out, name)) for name in files},
    }
    staging.write_json(os.path.join(out, "manifest.json"), manifest)
