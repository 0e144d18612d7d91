"""What a command says and returns when it cannot do what was asked.

Every expected failure is one of these exceptions. The first line of its message says what is wrong
and what to do; its class is the exit code of the command line.
"""


class PipelineError(Exception):
    """An expected failure; `exit_code` is what the process returns."""

    exit_code = 5


class UsageError(PipelineError):
    """A flag or argument has a value that nothing accepts."""

    exit_code = 1


class DataError(PipelineError):
    """The input or the dataset is at fault: too many bad inputs, a leak, a changed file, a wrong sum."""

    exit_code = 3


class EnvironmentFault(PipelineError):
    """The machine is at fault: disk full, no permission, a missing library, a killed worker."""

    exit_code = 4


class InvariantError(PipelineError):
    """Something that this code guarantees did not hold; a bug to report."""

    exit_code = 5


class OutputBusyError(PipelineError):
    """The output exists already, or another run holds it."""

    exit_code = 6


BY_EXIT_CODE = {
    error.exit_code: error for error in (UsageError, DataError, EnvironmentFault, InvariantError, OutputBusyError)
}
