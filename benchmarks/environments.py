"""Python environments for the libraries that the input pipeline is compared with, one for each, made on demand.

    python -m benchmarks.environments

They are folders below .cache/environments: none of it is a need of the project, and DALI is large.
"""

import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(".cache/environments")
#: OpenCV 4: its functions are those of 5, and Grain's users have it.
ENVIRONMENTS = {
    "dali": ("nvidia-dali-cuda130==2.4.0", "numpy<3"),
    "grain": ("grain==0.2.18", "simplejpeg==1.9.0", "opencv-python-headless==4.12.0.88"),
}


def make(name: str) -> pathlib.Path:
    """The interpreter of an environment, which is made if it is not there.

    Raises:
      subprocess.CalledProcessError: a package cannot be installed; pip has said why.
    """
    folder = ROOT.resolve() / name
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists() or done.read_text() != str(ENVIRONMENTS[name]):
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True)
        done.write_text(str(ENVIRONMENTS[name]))
    return python


def packages(name: str) -> str:
    """The folder of an environment's packages, for `sys.path`."""
    (folder,) = (make(name).parents[1] / "lib").glob("python*/site-packages")
    return str(folder)


if __name__ == "__main__":
    for environment in ENVIRONMENTS:
        make(environment)
