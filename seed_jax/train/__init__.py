"""A run in progress, from its parts to the one loop; a run on disk, written and read back."""
