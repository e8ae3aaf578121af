"""The training problem: its numbers, checked, its features and targets, its forms for others."""
