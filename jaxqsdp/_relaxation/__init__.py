"""The point that solvers return: feasible, with its gap and status, and samples of it."""
