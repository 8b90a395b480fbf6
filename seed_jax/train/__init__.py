"""A run under way, from what it is made of to the one loop; a run on disk, written and read back."""
