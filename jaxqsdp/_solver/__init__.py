"""Solvers of the relaxation, and the accelerated splitting loop that the refit uses as well."""

from .admm import ADMM as ADMM
from .base import AbstractSolver as AbstractSolver
from .base import Iterate as Iterate
from .choice import default_solver as default_solver
from .interior_point import InteriorPoint as InteriorPoint
