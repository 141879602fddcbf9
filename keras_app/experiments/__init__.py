"""What the command line runs: plain functions that write a run folder."""

from keras_app.experiments.anytime import anytime

__all__ = ["anytime"]
