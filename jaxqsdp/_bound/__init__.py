"""The proofs: what is at most the optimum, and what is at least an objective.

Nothing in here, nor in `_exact` below it, trusts a convergence test, an eigenvalue routine or an
order of summation. `relaxation` holds the bound of a dual point, `combinatorial` the one by all
sign vectors, `max_norm` the smallest penalty at which zero is optimal, `objective` the objective of
a network from above, `budget`, `ray`, `eigenvalues` and `signs` what they are made of.
"""
