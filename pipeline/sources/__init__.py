"""The annotation layouts that can be converted: one module and one row each."""

from pipeline.errors import UsageError
from pipeline.sources.affectnet import AffectNet
from pipeline.sources.affectnet_csv import AffectNetCsv
from pipeline.sources.affectnet_plus import AffectNetPlus
from pipeline.sources.arrays import Arrays
from pipeline.sources.base import Source
from pipeline.sources.csv import Csv
from pipeline.sources.fer2013 import Fer2013
from pipeline.sources.ferplus import FerPlus

SOURCES: dict[str, type[Source]] = {
    "affectnet": AffectNet,
    "affectnet_csv": AffectNetCsv,
    "affectnet_plus": AffectNetPlus,
    "arrays": Arrays,
    "csv": Csv,
    "fer2013": Fer2013,
    "ferplus": FerPlus,
}


def get(name: str) -> type[Source]:
    """The source of that name.

    Raises:
      UsageError: there is none; the message lists the choices.
    """
    if name not in SOURCES:
        raise UsageError(f"--source={name} is not known; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]
