"""Arithmetic that rounds nothing, or accounts for all of it: what the proofs rest on."""
