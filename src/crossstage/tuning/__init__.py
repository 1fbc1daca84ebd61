"""Tuning: trainings of one plan with other rates, strengths and sizes, and which of them does best."""

from crossstage.tuning.space import Network, Space, space_of
from crossstage.tuning.study import Trialled, Tuned, tune

__all__ = ["Network", "Space", "Trialled", "Tuned", "space_of", "tune"]
