"""The annotation layouts that can be converted: one module and one row each."""

from pipeline.errors import UsageError
from pipeline.sources.affectnet import AffectNet
from pipeline.sources.base import Source

SOURCES: dict[str, type[Source]] = {
    "affectnet": AffectNet,
}


def get(name: str) -> type[Source]:
    """The source of that name.

    Raises:
      UsageError: there is none; the message lists the choices.
    """
    if name not in SOURCES:
        raise UsageError(f"--source={name} is not known; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]
