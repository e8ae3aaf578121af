"""Two-layer networks with quantized weights, trained by semidefinite programming, with a proof."""

from ._adjoint import AbstractAdjoint as AbstractAdjoint
from ._adjoint import Implicit as Implicit
from ._batch import solve_batch as solve_batch
from ._beta_max import beta_max as beta_max
from ._certificate import Certificate as Certificate
from ._certificate import certify as certify
from ._cross_validation import CrossValidation as CrossValidation
from ._cross_validation import cross_validate as cross_validate
from ._fit import FitResult as FitResult
from ._fit import fit as fit
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
from ._solver import ADMM as ADMM
from ._solver import AbstractSolver as AbstractSolver
from ._solver import InteriorPoint as InteriorPoint
