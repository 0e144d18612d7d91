"""One drawn face: its geometry, its look, its paint, its light. `datasets.sample_faces` puts them together."""
