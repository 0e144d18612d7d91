"""Faults for every process of a job that runs with this folder on PYTHONPATH: Python imports it at start.

$FAULTS is a JSON list of {"at": WHEN, "do": WHAT, "once": FILE}. WHEN is one of
    decode:52      a JPEG with a side of 52 pixels is about to be decoded; decode:* any
    made:NAME      a file whose path ends in NAME, a pattern, was put in its place
    import:NAME    a package is looked for
    list:*         a folder is listed
WHAT is one of
    abort          SIGABRT, as from a C library
    kill           SIGKILL of this process;  kill_group  of all of the job
    hang           for ever
    sleep:0.01     seconds
    log:FILE       append a line that says what was decoded, made or looked for
    sh:COMMAND     run it
    fail           raise an ImportError
    shuffle        list in another order each time
With "once" it happens once only, in whichever process is first; the file remembers.
"""

import fnmatch
import json
import os
import random
import signal
import subprocess
import sys
import time

_FAULTS = [(*fault["at"].split(":"), fault["do"], fault.get("once")) for fault in json.loads(os.environ["FAULTS"])]


def _happens(kind: str, what: str) -> None:
    for at, which, do, once in _FAULTS:
        if at == kind and fnmatch.fnmatchcase(what, f"*{which}") and _first(once):
            _do(do, what)


def _first(once: str | None) -> bool:
    try:
        return once is None or bool(os.open(once, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False


def _do(do: str, what: str) -> None:
    do, _, argument = do.partition(":")
    if do == "abort":
        os.abort()
    elif do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "kill_group":
        os.killpg(0, signal.SIGKILL)
    elif do == "hang":
        time.sleep(10_000)
    elif do == "sleep":
        time.sleep(float(argument))
    elif do == "log":
        with open(argument, "a", encoding="utf-8") as file:
            file.write(what + "\n")
    elif do == "sh":
        subprocess.run(argument, shell=True, check=True)
    elif do == "fail":
        raise ImportError(f"{what} is not installed")
    else:
        raise ValueError(do)


class _Finder:
    def find_spec(self, name, path=None, target=None):
        _happens("import", name)


def _shuffled(scandir):
    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def close(self):
            pass

    def scan(*args):
        with scandir(*args) as found:
            entries = Entries(found)
        random.shuffle(entries)
        return entries

    return scan


def _install() -> None:
    kinds = {at for at, *_ in _FAULTS}
    if "import" in kinds:
        sys.meta_path.insert(0, _Finder())
    if "made" in kinds:
        replace = os.replace

        def replace_and_say(source, target, **directories):
            replace(source, target, **directories)
            _happens("made", os.fspath(target))

        os.replace = replace_and_say
    if "list" in kinds:
        os.scandir = _shuffled(os.scandir)
    if "decode" in kinds:
        import simplejpeg

        decode = simplejpeg.decode_jpeg

        def say_and_decode(data, *args, **kwargs):
            _happens("decode", str(simplejpeg.decode_jpeg_header(data)[0]))
            return decode(data, *args, **kwargs)

        simplejpeg.decode_jpeg = say_and_decode


_install()
