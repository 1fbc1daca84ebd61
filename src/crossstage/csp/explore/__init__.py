"""Which cross stage partial variant of a network is worth having: costs, latency, accuracy, and their Pareto fronts."""

from crossstage.csp.explore.accuracy import classes_in, with_accuracy
from crossstage.csp.explore.exploration import Exploration
from crossstage.csp.explore.front import pareto_front
from crossstage.csp.explore.measuring import explore
from crossstage.csp.explore.printing import print_exploration
from crossstage.csp.explore.rows import Costs, ExplorationRow, Measure

__all__ = [
    "Costs",
    "Exploration",
    "ExplorationRow",
    "Measure",
    "classes_in",
    "explore",
    "pareto_front",
    "print_exploration",
    "with_accuracy",
]
