"""The shape of the code: which file may import which, and what an import or a --help may cost."""

import ast
import fnmatch
import functools
import pathlib
import re
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("pipeline", "datasets", "trainers", "export")

#: The floor of each file: the first row that matches. A file imports from its own floor and from those below.
FLOORS = (
    (0, "pipeline/__init__.py errors.py records.py files.py processes.py command.py documents.py"),
    (1, "pipeline/sources/*.py images/*.py tfrecord.py"),
    (2, "pipeline/codec.py planning.py label_order.py settings.py staging.py listing.py tasks.py plan_stage.py"),
    (2, "pipeline/statistics.py metadata.py progress.py"),
    (3, "pipeline/worker.py pool.py transforms.py"),
    (4, "pipeline/publishing.py conversion.py summary.py build_tfrecords.py checking.py verify.py"),
    (4, "pipeline/report.py report_data.py report_page.py report_plots.py"),
    (5, "datasets/__init__.py affect_faces/*.py sample_faces.py drawn_face/*.py"),
    (6, "datasets/preprocessing.py augmentation/*.py ordering.py labels.py selection.py faults.py python_calls.py"),
    (6, "datasets/batch_memory.py"),
    (7, "datasets/batches.py input_pipeline.py preview.py"),
    (8, "trainers/__init__.py config.py recipes.py backbones.py custom_cnn.py networks.py"),
    (9, "trainers/model.py"),
    (8, "trainers/losses.py metrics.py schedules.py monitoring.py guards.py streams.py board.py devices.py"),
    (8, "trainers/scores.py weighted.py intervals.py protocols.py"),
    (9, "trainers/heap.py leakage.py saliency.py prediction.py scoreboard.py"),
    (9, "trainers/evaluation_files.py evaluation_plots.py evaluation_text.py"),
    (10, "trainers/subject.py evaluation.py evaluation_faces.py evaluation_pdf.py evaluation_page.py"),
    (10, "trainers/comparison.py comparison_plots.py comparison_page.py"),
    (11, "trainers/evaluate.py compare.py"),
    (9, "trainers/workdir.py"),
    (10, "trainers/step.py training.py"),
    (11, "trainers/train.py sweep.py"),
    (12, "export/*.py"),
)
COMMANDS = (
    "datasets.preview",
    "datasets.sample_faces",
    "export.export_model",
    "export.predict",
    "pipeline.build_tfrecords",
    "pipeline.report",
    "pipeline.verify",
    "trainers.compare",
    "trainers.evaluate",
    "trainers.sweep",
    "trainers.train",
)
#: Run as a script by the job itself, not by people.
CHILDREN = ("export.answers", "pipeline.worker")
#: `tfds build` imports this folder as a package of its own, so it names its modules relatively.
IMPORTED_ALONE = ("datasets/affect_faces/__init__.py",)
#: Seconds to import: TensorFlow and Keras 8 to 12, Beam 2 to 3.
HEAVY = ("tensorflow", "keras", "apache_beam")
#: Paths of some machine. /tmp and /etc are on all of them.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/[\w.]")


def files(*suffixes: str) -> list[str]:
    """The files of the repository with these suffixes, relative, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
    return [name for name in names if name.endswith(suffixes or "")]


@functools.cache
def modules() -> dict[str, str]:
    """Dotted name to file, of the four packages."""
    paths = [path for path in files(".py") if path.split("/")[0] in PACKAGES]
    return {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in paths}


@functools.cache
def imports(path: str) -> frozenset[str]:
    """The files of the four packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path in IMPORTED_ALONE, (
                f"{path}:{node.lineno}: write the import out, from {PACKAGES} on"
            )
            module = ".".join([*path.split("/")[:-1], node.module]) if node.level else node.module
            members = {f"{module}.{alias.name}" for alias in node.names}
            # `from package import module` means the module; `from module import name` means the module too.
            names |= {member if member in modules() else module for member in members}
    unknown = {name for name in names if name.split(".")[0] in PACKAGES and name not in modules()}
    assert not unknown, f"{path} imports {unknown}, which no file has"
    return frozenset(modules()[name] for name in names if name in modules())


def floor(path: str) -> int:
    for number, row in FLOORS:
        package = row.split("/")[0]
        for pattern in row.removeprefix(f"{package}/").split():
            if fnmatch.fnmatch(path, f"{package}/{pattern}"):
                return number
    raise AssertionError(f"{path} has no floor: give it one in FLOORS of tests/test_layout.py")


def test_every_file_has_a_floor():
    for path in modules().values():
        floor(path)


def test_no_file_imports_upward():
    upward = [
        f"{path} (floor {floor(path)}) imports {target} (floor {floor(target)})"
        for path in modules().values()
        for target in imports(path)
        if floor(target) > floor(path)
    ]
    assert not upward, "\n".join(upward)


def test_no_import_is_circular():
    done = set()

    def visit(path: str, trail: tuple[str, ...]) -> None:
        assert path not in trail, "circular: " + " -> ".join([*trail[trail.index(path) :], path])
        if path not in done:
            for target in imports(path):
                visit(target, (*trail, path))
            done.add(path)

    for path in modules().values():
        visit(path, ())


def test_top_level():
    """Four packages to install, and no others: a new top-level name is a decision."""
    folders = {path.split("/")[0] for path in files(".py") if "/" in path}
    assert folders <= {*PACKAGES, "tests", "benchmarks", "scripts"}
    assert {path for path in files(".py") if "/" not in path} == {"setup.py"}


def test_no_utils():
    assert not [path for path in files(".py") if re.search(r"(^|[/_])(utils?|helpers?|common|misc)\.py$", path)]


def test_flags_are_defined_by_main():
    """A flag defined by an import is there, and perhaps required, in every program that imports the module."""
    at_import = [
        f"{path}:{statement.lineno}"
        for path in files(".py")
        for statement in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef) and "flags.DEFINE" in ast.unparse(statement)
    ]
    assert not at_import, f"define these inside main(): {at_import}"


def test_no_path_of_a_machine_in_the_files():
    this = pathlib.Path(__file__).relative_to(ROOT).as_posix()
    found = []
    for path in files():
        text = (ROOT / path).read_bytes().decode("utf-8", "replace")
        if path != this:
            found += [f"{path}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
        assert str(ROOT) not in text, path
    assert not found, "\n".join(found)


def test_pipeline_never_imports_tensorflow():
    names = [name for name, path in modules().items() if path.startswith("pipeline/")]
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'tensorflow', 'keras'} & set(sys.modules), name\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_are_listed():
    """A module that runs as a script is a command, and COMMANDS names it."""
    main = [name for name, path in modules().items() if '__name__ == "__main__"' in (ROOT / path).read_text()]
    assert sorted(main) == sorted(COMMANDS + CHILDREN)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick(command):
    """Under a second of processor time, so that other work on the machine does not decide it; best of three."""
    seconds = []
    while len(seconds) < 3 and min(seconds, default=1) >= 1:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", command, "--help"], cwd=ROOT, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        # absl's --help exits 1.
        assert done.returncode in (0, 1) and "--" in done.stdout and "Traceback" not in done.stderr, done
    assert min(seconds) < 1, f"{min(seconds):.2f} s; python -X importtime -m {command} --help shows where"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    script = (
        "import runpy, sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({command!r}, run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        f"    print('heavy:', *sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "heavy:", done.stderr
