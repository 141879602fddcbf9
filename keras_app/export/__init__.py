"""What leaves the toolkit."""

from keras_app.export.shrink import shrink
from keras_app.export.sparse import load_sparse
from keras_app.export.sparse import save_sparse
from keras_app.export.strip import strip_pruning

__all__ = ["load_sparse", "save_sparse", "shrink", "strip_pruning"]
