"""The page of a run, or of several: what came of them, in one HTML file."""

from keras_app.experiments.page.page import COMPARISON
from keras_app.experiments.page.page import default_path
from keras_app.experiments.page.page import PAGE
from keras_app.experiments.page.page import write_page

__all__ = ["COMPARISON", "PAGE", "default_path", "write_page"]
