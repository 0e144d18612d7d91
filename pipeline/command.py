"""What every command line shares: errors become one message and an exit code."""

import sys
import traceback
from collections.abc import Callable

from absl import app

from pipeline.errors import EnvironmentFault, InvariantError, PipelineError


def run(command: Callable[[], None]) -> None:
    """Parses the flags that are defined, calls `command`, and exits as `pipeline.errors` says.

    Args:
      command: does the work; a PipelineError is printed without a traceback.
    """
    app.run(lambda argv: _exit_code(command, argv[1:]))


def _exit_code(command: Callable[[], None], surplus: list[str]) -> int:
    if surplus:
        raise app.UsageError(f"unexpected {surplus[0]!r}; every argument of this command is a --flag=value")
    try:
        command()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        print(f"error: a library is missing or broken: {error}; install what requirements.lock names", file=sys.stderr)
        return EnvironmentFault.exit_code
    except Exception:
        print(f"error: an unexpected error, please report it:\n{traceback.format_exc()}", file=sys.stderr)
        return InvariantError.exit_code
    return 0
