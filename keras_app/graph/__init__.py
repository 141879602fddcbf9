"""Graphs of models: what belongs together, what is dead, what it costs."""

from keras_app.graph.analysis import Analysis
from keras_app.graph.dead import count_dead
from keras_app.graph.dead import Live
from keras_app.graph.flops import flops_per_sample
from keras_app.graph.walking import is_graph
from keras_app.graph.walking import walk

__all__ = [
    "Analysis",
    "Live",
    "count_dead",
    "flops_per_sample",
    "is_graph",
    "walk",
]
