"""The TFDS dataset `affect_faces`. Importing this package registers it, so that `tfds.load` knows the name."""

# Relative, because `tfds build` imports this folder as a package of its own.
from .affect_faces_dataset_builder import AffectFacesConfig, Builder

__all__ = ["AffectFacesConfig", "Builder"]
