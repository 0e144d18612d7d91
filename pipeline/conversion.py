"""The conversion as a library: `convert(settings)`.

    scan (here) ─▶ RunTasks: verify ─▶ PlanShards ─▶ RunTasks: write ─▶ WriteMetadata ─▶ publish (here)

The driver lists the input, holds the lock, and renames the result into place; what lies between is one
Beam pipeline. A rerun after a kill finds the done-records in the staging directory and repeats none.
"""

import contextlib
import dataclasses
import io
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable

from pipeline import listing, metadata, pool, progress, publishing, staging, statistics
from pipeline.errors import BY_EXIT_CODE, DataError, EnvironmentFault, InvariantError, OutputBusyError, UsageError
from pipeline.settings import Settings
from pipeline.tasks import Job
from pipeline.worker import describe_os_error

#: The runner when --beam_options names none. Beam's own default first looks for a downloaded Go program.
LOCAL_RUNNER = "FnApiRunner"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a conversion did.

    Attributes:
      dataset_dir: the published directory; "" after a dry run.
      digest: the dataset's, as hex; "" after a dry run.
      statistics: as in `statistics.json`.
      seconds: by stage, and "total".
    """

    dataset_dir: str
    digest: str
    statistics: dict
    seconds: dict[str, float]


def convert(
    settings: Settings, *, show_progress: bool = False, on_staging: Callable[[str], None] = lambda _: None
) -> Result:
    """Converts raw faces to a dataset directory.

    Args:
      settings: what to do.
      show_progress: whether to draw a bar on standard error.
      on_staging: told the directory of a dry run, which is to be removed if the process ends inside.

    Raises:
      PipelineError: by kind of fault; its `exit_code` is the command line's.
    """
    started = time.time()
    try:
        if settings.dry_run:
            return _plan(settings, started, show_progress=show_progress, on_staging=on_staging)
        return _publish(settings, started, show_progress=show_progress)
    except OSError as error:  # reading the input raises other errors, so this is about the output
        raise describe_os_error(error, settings.data_dir) from None


def _plan(settings: Settings, started: float, *, show_progress: bool, on_staging: Callable[[str], None]) -> Result:
    folder = tempfile.mkdtemp(prefix="affect_faces_dry_run_")
    on_staging(folder)
    try:
        job = Job(settings.absolute(), staging.Staging(folder))
        seconds = _run(job, started, show_progress=show_progress)
        return Result("", "", statistics.count(job), seconds)
    finally:
        shutil.rmtree(folder)


def _publish(settings: Settings, started: float, *, show_progress: bool) -> Result:
    where = staging.make_staging(settings.absolute())
    key = staging.settings_digest(settings.deciding_bytes() | _circumstances(settings))
    publishing.prepare_folder(settings.dataset_dir)
    with publishing.lock(settings.dataset_dir):
        where.sweep()
        if publishing.recover(where, settings.dataset_dir, key):
            logging.warning("finished the publication that an earlier run was killed in")
            return _published(settings, {"total": time.time() - started})
        _refuse_to_destroy(settings)
        seconds = _run(Job(settings.absolute(), where), started, show_progress=show_progress)
        _write_run(settings, where, started, seconds)
        publishing.publish(where, settings.dataset_dir, key)
        return _published(settings, seconds | {"total": time.time() - started})


def _refuse_to_destroy(settings: Settings) -> None:
    """Only a dataset of ours is ever replaced, only by request, and not with the faces inside it."""
    place = settings.dataset_dir
    if os.path.lexists(place) and not publishing.is_complete(place):
        raise OutputBusyError(f"{place} exists and is no dataset of ours; move it away, or give another --name")
    if os.path.realpath(settings.input_dir).startswith(os.path.realpath(place) + os.sep):
        raise UsageError(f"--input_dir={settings.input_dir} lies in {place}, the dataset itself; give another --name")
    if os.path.lexists(place) and not settings.overwrite:
        raise OutputBusyError(f"{place} exists; --overwrite replaces it, another --name keeps both")


def _circumstances(settings: Settings) -> dict:
    """What must be the same, beside the settings, for a rerun to go on with what an earlier run left."""
    return {"input": os.path.realpath(settings.input_dir), "versions": metadata.library_versions()}


def _published(settings: Settings, seconds: dict[str, float]) -> Result:
    counts = staging.read_json(os.path.join(settings.dataset_dir, "statistics.json"))
    return Result(settings.dataset_dir, publishing.digest(settings.dataset_dir), counts, seconds)


def _run(job: Job, started: float, *, show_progress: bool) -> dict[str, float]:
    """Everything up to a complete `out/`; returns seconds by stage."""
    job.staging.create()
    with job.open_source() as source:
        if not job.settings.beam_options:
            pool.start_idle(_local_processes(job.settings))  # they get ready during the scan and Beam's import
        try:
            inputs = listing.list_inputs(source.scan())
        except OSError as error:
            raise DataError(f"{error.filename or job.settings.input_dir} cannot be listed: {error.strerror}") from None
    columns = staging.VERIFY_SCHEMA.names  # another release may leave other rows
    basis = job.settings.verified_with() | _circumstances(job.settings) | {"columns": columns}
    chunks = listing.cut_chunks(inputs, job.staging, staging.settings_digest(basis))
    del inputs
    scanned = time.time()
    if os.path.exists(job.staging.outcome_path):
        os.unlink(job.staging.outcome_path)
    if show_progress:
        with progress.shown(job.staging, chunks, writes=not job.settings.dry_run):
            _run_pipeline(job, chunks)
    else:
        _run_pipeline(job, chunks)
    return _stage_seconds(job, chunks, started, scanned)


def _run_pipeline(job: Job, chunks: list[listing.Chunk]) -> None:
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    logging.disable(logging.WARNING)  # it would tell of cloud services that nobody asked for
    try:
        import apache_beam as beam  # two seconds, after everything that can fail without it

        from pipeline import transforms
    finally:
        logging.disable(logging.NOTSET)

    options, pool_size = _beam_options(job.settings)
    try:
        with beam.Pipeline(options=options) as pipeline:
            os.rmdir(pipeline.local_tempdir)  # for transforms in other languages; a killed run would leave it
            tasks = (
                pipeline
                | "Chunks" >> beam.Create([{"kind": "verify", "chunk": vars(chunk)} for chunk in chunks])
                | "Verify" >> transforms.RunTasks(job, pool_size)
                | transforms.PlanShards(job, chunks)
            )
            if job.settings.dry_run:
                tasks | transforms.SayOutcome(job)
            else:
                (
                    tasks
                    | "Write" >> transforms.RunTasks(job, pool_size)
                    | transforms.WriteMetadata(job)
                    | transforms.SayOutcome(job)
                )
    except Exception as error:
        if not os.path.exists(job.staging.outcome_path):
            what = str(error).strip().partition("\n")[0]
            raise EnvironmentFault(
                f"the Beam runner failed: {what}; the same command goes on where this one stopped\n{error}"
            ) from error
        logging.warning("the Beam runner complained after the job was done: %s", error)
    if not os.path.exists(job.staging.outcome_path):
        raise InvariantError(
            "the Beam runner ended without having run the job; is the data directory shared by its workers?"
        )
    outcome = staging.read_json(job.staging.outcome_path)
    if outcome:
        raise BY_EXIT_CODE[outcome["fault"]](outcome["message"])


def _beam_options(settings: Settings):
    """Beam's options, and how many decoding processes each Beam worker drives.

    Raises:
      UsageError: an option that Beam cannot parse, a runner that it does not know, or an option that the
        local runner does not know; other runners may have options that only they know.
    """
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    def refuse(problem: object) -> UsageError:
        return UsageError(f"--beam_options={settings.beam_options!r} is not accepted: {problem}")

    complaint = io.StringIO()
    try:
        arguments = shlex.split(settings.beam_options)
        given = {argument.partition("=")[0].lstrip("-") for argument in arguments}
        if "runner" not in given:
            arguments.append(f"--runner={LOCAL_RUNNER}")
        with contextlib.redirect_stderr(complaint):
            options = PipelineOptions(arguments)
            known = options.get_all_options()
        create_runner(known["runner"])
    except SystemExit:  # argparse's way to say no
        raise refuse(complaint.getvalue().strip().rpartition("\n")[2]) from None
    except (ValueError, ImportError, AttributeError) as error:
        raise refuse(error) from None
    if known["runner"].rpartition(".")[2] != LOCAL_RUNNER:
        return options, settings.num_workers or 1
    if unknown := sorted(options.get_all_options(drop_default=True, retain_unknown_options=True).keys() - known.keys()):
        raise refuse(f"{LOCAL_RUNNER} has no option --{unknown[0]}")
    cores = _local_processes(settings)
    if known["direct_running_mode"] == "in_memory":
        return options, cores
    if settings.num_workers and "direct_num_workers" in given:
        raise UsageError("--num_workers and --beam_options=--direct_num_workers say the same thing; give one of them")
    return (
        options if "direct_num_workers" in given else PipelineOptions([*arguments, f"--direct_num_workers={cores}"])
    ), 1


def _local_processes(settings: Settings) -> int:
    return settings.num_workers or len(os.sched_getaffinity(0))


def _stage_seconds(job: Job, chunks: list[listing.Chunk], started: float, scanned: float) -> dict[str, float]:
    """Seconds by stage, read off the files that each leaves; a resumed stage counts what this run spent."""
    where = job.staging
    ends = [
        ("scan", scanned),
        ("verify", max(os.path.getmtime(where.verify_path(chunk.index, chunk.key)) for chunk in chunks)),
        ("plan", os.path.getmtime(where.plan_path("plan.json"))),
    ]
    if not job.settings.dry_run:
        shards = staging.read_json(where.plan_path("plan.json"))["shards"]
        ends.append(("write", max(os.path.getmtime(where.write_path(shard["shard"], ".json")) for shard in shards)))
    ends.append(("publish" if not job.settings.dry_run else "end", time.time()))
    seconds, before = {}, started
    for name, end in ends:
        seconds[name] = max(0.0, end - before)
        before = max(before, end)
    return seconds | {"total": time.time() - started}


def _write_run(settings: Settings, where: staging.Staging, started: float, seconds: dict[str, float]) -> None:
    """What differs from run to run; outside every digest."""
    staging.write_json(
        os.path.join(where.out, "run.json"),
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "beam_options": settings.beam_options or f"--runner={LOCAL_RUNNER}",
            "num_workers": settings.num_workers,
            "host": os.uname().nodename,
        },
    )
