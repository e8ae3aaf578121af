"""Penalties: the largest useful one, paths, cross-validation."""
