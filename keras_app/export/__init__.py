"""What leaves the toolkit."""

from keras_app.export.export_report import ExportReport
from keras_app.export.litert import export_litert
from keras_app.export.onnx_file import export_onnx
from keras_app.export.saved_model import export_saved_model
from keras_app.export.shrink import shrink
from keras_app.export.sparse import load_sparse
from keras_app.export.sparse import save_sparse
from keras_app.export.strip import merge_lora
from keras_app.export.strip import strip_pruning

__all__ = [
    "ExportReport",
    "export_litert",
    "export_onnx",
    "export_saved_model",
    "load_sparse",
    "merge_lora",
    "save_sparse",
    "shrink",
    "strip_pruning",
]
