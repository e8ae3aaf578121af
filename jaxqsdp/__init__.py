"""Two-layer networks with quantized weights, trained by semidefinite programming, with a proof."""

from importlib.metadata import version as _version

from ._adjoint import AbstractAdjoint as AbstractAdjoint
from ._adjoint import Implicit as Implicit
from ._adjoint_report import AdjointReport as AdjointReport
from ._adjoint_report import AdjointStatus as AdjointStatus
from ._adjoint_report import adjoint_report as adjoint_report
from ._batch import solve_batch as solve_batch
from ._beta_max import beta_max as beta_max
from ._certificate import Certificate as Certificate
from ._certificate import certify as certify
from ._cross_validation import CrossValidation as CrossValidation
from ._cross_validation import cross_validate as cross_validate
from ._features import with_constant as with_constant
from ._fit import FitResult as FitResult
from ._fit import fit as fit
from ._gradient_check import GradientCheck as GradientCheck
from ._gradient_check import check_gradient as check_gradient
from ._improve import improve as improve
from ._layer import RelaxationLayer as RelaxationLayer
from ._loss import SquaredLoss as SquaredLoss
from ._network import QuantizedNetwork as QuantizedNetwork
from ._path import Path as Path
from ._path import path as path
from ._problem import Problem as Problem
from ._round import KRIVINE_CONSTANT as KRIVINE_CONSTANT
from ._round import refit as refit
from ._round import round as round
from ._solution import Solution as Solution
from ._solution import Stats as Stats
from ._solution import Status as Status
from ._solve import SolveError as SolveError
from ._solve import solve as solve
from ._solve_exactly import ExactResult as ExactResult
from ._solve_exactly import solve_exactly as solve_exactly
from ._solver import ADMM as ADMM
from ._solver import AbstractSolver as AbstractSolver
from ._solver import InteriorPoint as InteriorPoint
from ._unrolled import Unrolled as Unrolled

__version__ = _version("jaxqsdp")
