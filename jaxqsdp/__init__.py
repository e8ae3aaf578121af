"""Two-layer networks with quantized weights, trained by semidefinite programming, with a proof.

    minimize  ℓ(f(X), y) + β ‖α‖₁  over  f(x) = Σ_j α_j (xᵀu_j)(xᵀv_j),  u_j, v_j ∈ {−1, +1}^d,

with ℓ(ŷ, y) = ½ Σ_i w_i (ŷ_i − y_i)² or another loss: `LogisticLoss`, `HingeLoss`, `HuberLoss`, …
In one call, for standardized features X (n, d) and targets y (n,), two classes coded as ±1:

    import jax
    import numpy as np
    import jaxqsdp as qs

    X = np.random.default_rng(0).standard_normal((60, 4))
    y = X[:, 0] * X[:, 1]
    fit = qs.fit(X, y, beta=1.0, num_neurons=8, key=jax.random.key(0))
    print(fit.certificate)  # bound ≤ optimum ≤ objective
    predictions = jax.vmap(fit.network)(X)

Step by step: `Problem`, `solve`, `jaxqsdp.round`, `improve`, `certify`. The penalty:
`cross_validate`, `path`, `beta_max`. Many problems: `solve_batch`. Global optima: `solve_exactly`.
Derivatives: `solve` has them, see `Implicit`, `RelaxationLayer`, `adjoint_report` and
`check_gradient`. Networks in files: `QuantizedNetwork.save` and `load`. Another solver's opinion:
`Problem.to_cvxpy` and `Problem.write_sdpa`. A loss of your own: `AbstractLoss`, tried by
`testing.check_loss`. More than one bit: `Levels`, `quantize_alpha`, `compress`.

`round` is not among the names of `from jaxqsdp import *`, as Python has one of its own.
"""

from importlib.metadata import version as _version

from . import testing as testing
from ._adjoint.implicit import AbstractAdjoint as AbstractAdjoint
from ._adjoint.implicit import Implicit as Implicit
from ._adjoint.report import AdjointReport as AdjointReport
from ._adjoint.report import AdjointStatus as AdjointStatus
from ._adjoint.report import adjoint_report as adjoint_report
from ._adjoint.unrolled import Unrolled as Unrolled
from ._batch.solve_batch import solve_batch as solve_batch
from ._certify import Certificate as Certificate
from ._certify import certify as certify
from ._check_gradient import GradientCheck as GradientCheck
from ._check_gradient import check_gradient as check_gradient
from ._compress import Compression as Compression
from ._compress import compress as compress
from ._fit import FitResult as FitResult
from ._fit import fit as fit
from ._host.cache import enable_cache as enable_cache
from ._improve import improve as improve
from ._layer import FittedRelaxation as FittedRelaxation
from ._layer import RelaxationLayer as RelaxationLayer
from ._loss.absolute import AbsoluteLoss as AbsoluteLoss
from ._loss.absolute import QuantileLoss as QuantileLoss
from ._loss.base import AbstractLoss as AbstractLoss
from ._loss.hinge import HingeLoss as HingeLoss
from ._loss.hinge import SquaredHingeLoss as SquaredHingeLoss
from ._loss.huber import HuberLoss as HuberLoss
from ._loss.logistic import LogisticLoss as LogisticLoss
from ._loss.softmax import SoftmaxLoss as SoftmaxLoss
from ._loss.squared import SquaredLoss as SquaredLoss
from ._network.activation import AbstractActivation as AbstractActivation
from ._network.bilinear import KRIVINE_CONSTANT as KRIVINE_CONSTANT
from ._network.bilinear import Bilinear as Bilinear
from ._network.levels import Levels as Levels
from ._network.network import QuantizedNetwork as QuantizedNetwork
from ._network.polynomial import Polynomial as Polynomial
from ._problem.features import with_constant as with_constant
from ._problem.problem import Problem as Problem
from ._quantize_alpha import quantize_alpha as quantize_alpha
from ._relaxation.solution import Solution as Solution
from ._relaxation.solution import Stats as Stats
from ._relaxation.status import Status as Status
from ._round import refit as refit
from ._round import round as round
from ._solve import SolveError as SolveError
from ._solve import solve as solve
from ._solve_exactly import ExactResult as ExactResult
from ._solve_exactly import solve_exactly as solve_exactly
from ._solver import ADMM as ADMM
from ._solver import AbstractSolver as AbstractSolver
from ._solver import InteriorPoint as InteriorPoint
from ._tuning.beta_max import beta_max as beta_max
from ._tuning.cross_validation import CrossValidation as CrossValidation
from ._tuning.cross_validation import cross_validate as cross_validate
from ._tuning.path import Path as Path
from ._tuning.path import path as path

__version__ = _version("jaxqsdp")

# All but `round`, which would hide Python's own.
__all__ = [
    "ADMM",
    "KRIVINE_CONSTANT",
    "AbsoluteLoss",
    "AbstractActivation",
    "AbstractAdjoint",
    "AbstractLoss",
    "AbstractSolver",
    "AdjointReport",
    "AdjointStatus",
    "Bilinear",
    "Certificate",
    "Compression",
    "CrossValidation",
    "ExactResult",
    "FitResult",
    "FittedRelaxation",
    "GradientCheck",
    "HingeLoss",
    "HuberLoss",
    "Implicit",
    "InteriorPoint",
    "Levels",
    "LogisticLoss",
    "Path",
    "Polynomial",
    "Problem",
    "QuantileLoss",
    "QuantizedNetwork",
    "RelaxationLayer",
    "SoftmaxLoss",
    "Solution",
    "SolveError",
    "SquaredHingeLoss",
    "SquaredLoss",
    "Stats",
    "Status",
    "Unrolled",
    "adjoint_report",
    "beta_max",
    "certify",
    "check_gradient",
    "compress",
    "cross_validate",
    "enable_cache",
    "fit",
    "improve",
    "path",
    "quantize_alpha",
    "refit",
    "solve",
    "solve_batch",
    "solve_exactly",
    "testing",
    "with_constant",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "round"])
