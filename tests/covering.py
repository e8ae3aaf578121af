"""Combinations of parameters that stand for all of them."""

import itertools
from collections import Counter


def covering(combinations, strength):
    """Return places of combinations, dicts of values, in which any values that occur together do.

    Any `strength` of them: 1 for each value to occur, 2 for each pair of values of two parameters.
    Greedily, the first of those with the most that is new and the values that are used least.
    """
    parts = [
        set(itertools.combinations(sorted(one.items()), min(strength, len(one))))
        for one in combinations
    ]
    missing, kept, used = set().union(*parts), [], Counter()
    while missing:
        best = max(
            range(len(parts)),
            key=lambda at: (
                len(parts[at] & missing),
                -sum(used[value] for value in combinations[at].items()),
                -at,
            ),
        )
        kept.append(best)
        missing -= parts[best]
        used.update(combinations[best].items())
    return kept
