"""Networks that tests of several kinds of loss need."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs


def all_neurons(d):
    """Return one of each neuron: signs of u and v, and their order, do not matter."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=d)))
    signs = signs[signs[:, 0] > 0]
    first, second = np.triu_indices(len(signs))
    return signs[first], signs[second]


def all_vectors(d):
    """Return all neurons of one vector."""
    return (np.array(list(itertools.product((-1.0, 1.0), repeat=d))),)


def network_of(u, v, alpha, dtype=np.float64):
    """Return a network of arrays of a dtype."""
    return qs.QuantizedNetwork.from_weights(*(jnp.asarray(a, dtype) for a in (u, v, alpha)))


def best_of_all(problem):
    """Return an objective that is next to the optimum of training, never below, and its network.

    Of all neurons there are, in float64, in which float32 data are exact.
    """
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), problem)
    kind = problem.activation
    neurons = all_neurons if kind.num_vectors == 2 else all_vectors
    u, *v = neurons(problem.num_features)
    alpha = np.ones((len(u), *problem.y.shape[1:]))
    everything = qs.QuantizedNetwork.from_weights(u, *(v or [None]), alpha, activation=kind)
    best = qs.refit(wide, everything)
    return float(wide.objective(best)), best


def improve(problem, network, solution, max_neurons):
    """Return a better network, by a short search."""
    return qs.improve(
        problem,
        network,
        max_neurons=max_neurons,
        key=jax.random.key(0),
        solution=solution,
        num_starts=4,
        num_steps=100,
    )
