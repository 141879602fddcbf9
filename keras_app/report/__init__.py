"""What a pruner ends with: what was pruned, and what it found."""

from keras_app.graph import flops_per_sample
from keras_app.report.discovery import connection_matrix
from keras_app.report.discovery import widths_and_skips
from keras_app.report.front import pareto_front
from keras_app.report.language import perplexity
from keras_app.report.tables import build
from keras_app.report.tables import PruningReport
from keras_app.report.tables import summarize
from keras_app.report.tables import VariableReport

__all__ = [
    "PruningReport",
    "VariableReport",
    "build",
    "connection_matrix",
    "flops_per_sample",
    "pareto_front",
    "perplexity",
    "summarize",
    "widths_and_skips",
]
