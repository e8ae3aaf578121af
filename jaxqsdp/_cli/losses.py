"""The losses that the command line offers, and the one it takes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jaxqsdp as qs

from .errors import DataError, quoted

if TYPE_CHECKING:
    from .table import Table

LOSSES: dict[str, qs.AbstractLoss] = {
    "squared": qs.SquaredLoss(),
    "absolute": qs.AbsoluteLoss(),
    "huber": qs.HuberLoss(),
    "hinge": qs.HingeLoss(),
    "squared-hinge": qs.SquaredHingeLoss(),
    "logistic": qs.LogisticLoss(),
    "softmax": qs.SoftmaxLoss(),
}
_FOR_CLASSES = {name for name, loss in LOSSES.items() if loss.takes_labels or loss.takes_classes}


def default_loss(table: Table) -> str:
    """Return the name of the loss for a table where none is asked for.

    That of `benchmarks.accuracy_by_loss`: softmax predicts many classes far better; two are
    predicted alike by squared error, in half the time.
    """
    return "softmax" if len(table.classes) > 2 else "squared"


def loss_for(table: Table, name: str | None) -> str:
    """Return the name of the loss asked for, or of the default.

    **Raises:** `DataError` if it is not for such a target.
    """
    name = default_loss(table) if name is None else name
    if name in _FOR_CLASSES and not table.classes:
        others = ", ".join(other for other in LOSSES if other not in _FOR_CLASSES)
        raise DataError(
            f"--loss {name} is for classes, but the target {quoted(table.target_name)} holds "
            f"numbers; for those there are {others}"
        )
    return name
