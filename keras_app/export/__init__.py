"""What leaves the toolkit."""

from keras_app.export.strip import strip_pruning

__all__ = ["strip_pruning"]
