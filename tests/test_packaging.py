"""The package, its lock, and the two commands of the README."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def setup_list(name: str) -> set[str]:
    """Names of the requirements in one list of setup.py."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = re.search(rf'{name}"?[=:] ?\[(.*?)\n?\s*\]', text, re.DOTALL).group(1)
    return set(re.findall(r'"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?[<>=]', block))


def locked() -> dict[str, str]:
    """Name to version, of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [re.match(r"([A-Za-z0-9_.-]+)==([^ ;]+)", line) for line in lines if line and line[0] not in " #"]
    assert all(pins), "every line of the lock pins one version"
    return {normalised(pin.group(1)): pin.group(2) for pin in pins}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]", "-", name.lower())


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["install_requires", "dev", "litert", "onnx"])
def test_every_requirement_is_locked(name):
    wanted = {normalised(requirement) for requirement in setup_list(name)}
    assert wanted
    assert wanted <= set(locked())


def test_lock_names_no_host():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|--index|--extra-index|--find-links|--trusted-host|@ ", text)


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("target", ["demo", "test", "bench"])
def test_commands_of_the_makefile_exist(target):
    """Every module and script that a target runs is a file."""
    done = make("--dry-run", "--always-make", target)
    assert done.returncode == 0, done.stderr
    modules = set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)+)", done.stdout))
    scripts = set(re.findall(r"\b(scripts/[\w.]+)", done.stdout))
    assert modules | scripts or target == "test"
    for path in scripts | {module.replace(".", "/") + ".py" for module in modules}:
        assert (ROOT / path).is_file(), path


def test_make_says_which_python_it_needs():
    done = make("--always-make", ".venv", PYTHON="")
    assert done.returncode != 0
    assert "No Python 3.11, 3.12 or 3.13" in done.stderr


def test_ci_runs_the_test_command():
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert "make test" in run.read_text(encoding="utf-8")


def test_slow_tests_are_left_out_by_default():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert "not slow" in options["addopts"]


@pytest.mark.slow
def test_wheel_holds_the_four_packages_and_their_data(tmp_path):
    # From a copy: a build leaves its files beside the sources.
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in filter(None, listed.split("\0")):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, checkout / path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}", str(checkout)]
    subprocess.run(command, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = ("pipeline", "datasets", "trainers", "export")
    assert {f"{package}/__init__.py" for package in packages} <= names
    assert names == {path for path in listed.split("\0") if path.split("/")[0] in packages}
