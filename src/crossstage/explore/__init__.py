"""Which cross stage partial variant of a network is worth having: costs, latency, accuracy, and their Pareto fronts."""

from crossstage.explore.accuracy import classes_in, with_accuracy
from crossstage.explore.exploration import Costs, Exploration, Measure, Row
from crossstage.explore.front import pareto_front
from crossstage.explore.measuring import explore
from crossstage.explore.printing import print_exploration

__all__ = [
    "Costs",
    "Exploration",
    "Measure",
    "Row",
    "classes_in",
    "explore",
    "pareto_front",
    "print_exploration",
    "with_accuracy",
]
