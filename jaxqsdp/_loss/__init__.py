"""Losses, one to a file."""
