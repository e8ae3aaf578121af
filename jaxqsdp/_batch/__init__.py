"""Many problems at a time."""
