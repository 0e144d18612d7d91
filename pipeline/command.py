"""What every command line shares: errors become one message and an exit code."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from absl import app, flags

from pipeline.errors import EnvironmentFault, InvariantError, PipelineError, UsageError


def run(command: Callable[[], None]) -> None:
    """Parses the flags that are defined, calls `command`, and exits as `pipeline.errors` says.

    Args:
      command: does the work; a PipelineError is printed without a traceback.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        stream.reconfigure(errors="backslashreplace")  # for names and letters that the terminal's encoding lacks
    app.run(lambda argv: _exit_code(command, argv[1:]), flags_parser=_parse)


def say(line: str) -> None:
    """Prints a line at once, for whoever follows a log; once nobody reads any more the work goes on without a word."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _discard_output()


def _parse(arguments: list[str]) -> list[str]:
    """The arguments that are no flags; ends the process with one line where a flag is wrong."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        message = " ".join(str(error).split()).rstrip(" ?.")
        if isinstance(error, flags.UnrecognizedFlagError):
            modules = flags.FLAGS.flags_by_module_dict().items()
            own = {flag.name for module, some in modules if not module.startswith("absl.") for flag in some}
            message += f"; the flags of this command are {', '.join(sorted(own))}"
        print(f"error: {message}; --help explains them", file=sys.stderr)
        sys.exit(UsageError.exit_code)
    except BrokenPipeError:  # of --help, whose reader has read enough
        _discard_output()
        sys.exit()


def _exit_code(command: Callable[[], None], surplus: list[str]) -> int:
    if surplus:
        raise app.UsageError(f"unexpected {surplus[0]!r}; every argument of this command is a --flag=value")
    try:
        command()
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        return 128 + signal.SIGINT
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever reads what we print has read enough, and the work is done
        _discard_output()
    except OSError as error:
        _discard_output()
        what = error.filename or "what there is to say cannot be printed"
        print(f"error: {what}: {error.strerror or error}", file=sys.stderr)
        return EnvironmentFault.exit_code
    except ImportError as error:
        print(f"error: a library is missing or broken: {error}; install what requirements.lock names", file=sys.stderr)
        return EnvironmentFault.exit_code
    except Exception:
        print(f"error: an unexpected error, please report it:\n{traceback.format_exc()}", file=sys.stderr)
        return InvariantError.exit_code
    return 0


def _discard_output() -> None:
    """Python would fail again at its end, with what is still in the buffer."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
