"""Two-layer networks with quantized weights, trained by semidefinite programming, with a proof."""

from ._certificate import Certificate as Certificate
from ._certificate import certify as certify
from ._fit import FitResult as FitResult
from ._fit import fit as fit
from ._loss import SquaredLoss as SquaredLoss
from ._network import QuantizedNetwork as QuantizedNetwork
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
