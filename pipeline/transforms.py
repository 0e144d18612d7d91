"""The Beam transforms: what runs where, and that only small rows pass between stages.

An element is a chunk of the listing, a shard, or a fault; images and labels stay in files that every
worker sees. A fault (`{"fault": exit code, "message": …}`) is a value, not an exception: a runner would
repeat what raises, wrap its message, or lose it.
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import listing, metadata, plan_stage, processes
from pipeline.pool import Pool
from pipeline.tasks import Job
from pipeline.worker import fault


class RunTasks(beam.PTransform):
    """Verify or write tasks in; {} or a fault for each out, and verified rows or shards in the staging directory."""

    def __init__(self, job: Job, pool_size: int):
        super().__init__()
        self._job, self._pool_size = job, pool_size

    def expand(self, tasks: beam.PCollection) -> beam.PCollection:
        return tasks | "Spread" >> beam.Reshuffle() | "Run" >> beam.ParDo(_RunTasks(self._job, self._pool_size))


class PlanShards(beam.PTransform):
    """The answers of all chunks in; one write task a shard, or one fault, out."""

    def __init__(self, job: Job, chunks: list[listing.Chunk]):
        super().__init__()
        self._job, self._chunks = job, chunks

    def expand(self, answers: beam.PCollection) -> beam.PCollection:
        return answers | _Together() | "Plan" >> beam.FlatMap(_once, plan_stage.make_plan, self._job, self._chunks)


class WriteMetadata(beam.PTransform):
    """The answers of all shards in; {} or a fault out, and a complete dataset directory in the staging directory."""

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, answers: beam.PCollection) -> beam.PCollection:
        return answers | _Together() | "Write" >> beam.FlatMap(_once, _finish, self._job)


class SayOutcome(beam.PTransform):
    """Leaves `outcome.json` for the driver, which sees no element of the pipeline."""

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, answers: beam.PCollection) -> beam.PCollection:
        return answers | _Together() | "Say" >> beam.Map(_say, self._job)


class _Together(beam.PTransform):
    """All elements as one list; at least one element comes in, since no stage is silent."""

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | "Key" >> beam.Map(_keyed) | beam.GroupByKey() | "List" >> beam.Map(_listed)


class _RunTasks(beam.DoFn):
    """Hands tasks to a pool of decoding processes; faults of earlier stages pass through."""

    def __init__(self, job: Job, pool_size: int):
        self._job, self._pool_size = job, pool_size
        self._driver = os.getpid()

    def setup(self):
        processes.end_with(self._driver)
        self._pool = Pool(self._pool_size, self._job.settings.decode_timeout)

    def start_bundle(self):
        self._pending = collections.deque()

    def process(self, task: dict) -> Iterator[dict]:
        if "fault" in task:
            yield task
            return
        common = {"settings": vars(self._job.settings), "staging": self._job.staging.folder}
        self._pending.append(self._pool.submit(task | common))
        if len(self._pending) > 2 * self._pool_size:
            yield self._pending.popleft().result()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._pending:
            answer = self._pending.popleft().result()
            yield WindowedValue(answer, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def teardown(self):
        self._pool.close()


def _keyed(element: dict) -> tuple[int, dict]:
    return 0, element


def _listed(group: tuple[int, Iterable[dict]]) -> list[dict]:
    return list(group[1])


def _once(answers: list[dict], step: Callable, job: Job, *args) -> list[dict]:
    """Runs a step of the whole job, unless something failed before it."""
    faults = [answer for answer in answers if "fault" in answer]
    if faults:
        return [min(faults, key=lambda answer: (answer["fault"], answer["message"]))]
    try:
        return step(job, *args)
    except Exception as error:
        return [fault(error, job.staging.folder)]


def _finish(job: Job) -> list[dict]:
    metadata.write_metadata(job)
    return [{}]


def _say(answers: list[dict], job: Job) -> None:
    faults = [answer for answer in answers if "fault" in answer]
    job.staging.write_outcome(faults[0] if faults else {})
