"""The main job without its training, for tests of what it reads, says and writes.

As a script it takes the options of `python -m jaxqsdp`.
"""

import sys

import numpy as np

import jaxqsdp as qs
from jaxqsdp._cli import train


def quick(data, *, loss, beta, most_neurons, **_):
    """One neuron that nobody trained, and numbers that nobody proved."""
    signs, alpha = np.ones((1, data.train_X.shape[1])), np.ones((1, *data.train_y.shape[1:]))
    network = qs.QuantizedNetwork.from_weights(signs, signs, alpha)
    return train.Trained(
        data=data,
        loss=loss,
        beta=1.0 if beta is None else beta,
        beta_choice="by nobody",
        relaxation_value=1.0,
        status="Solved.",
        steps=1,
        sizes=[most_neurons],
        rounded=[3.0],
        objectives=[2.0],
        network=network,
        certificate=qs.Certificate(np.array(0.5), np.array(2.0), np.array(0.75), "relaxation"),
        optimum=train.Optimum(1.5, 1.75, 3),
        seconds=dict.fromkeys(
            ("choice", "compilation", "solution", "training", "certification"), 0.0
        ),
    )


if __name__ == "__main__":
    from jaxqsdp.__main__ import main

    train.train = quick
    raise SystemExit(main(sys.argv[1:]))
