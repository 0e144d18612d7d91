"""Raw faces and annotations in; a checked, sharded, TFDS-readable dataset directory out."""
