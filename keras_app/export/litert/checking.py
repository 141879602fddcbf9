"""Which arguments an export to LiteRT takes."""

import importlib.util
import os
from typing import get_args
from typing import Literal

import keras

from keras_app import files
from keras_app.checks import check_choice
from keras_app.checks import check_model
from keras_app.cli import one_line
from keras_app.export.litert.targets import TARGETS
from keras_app.hints import Quantize

EndsDtype = Literal["float32", "int8"]


def check_choices(quantize, sparse, target, io_dtype):
    """Raises for choices that are none, or that exclude one another."""
    check_choice("quantize", quantize, (None, *get_args(Quantize)))
    check_choice("target", target, tuple(TARGETS))
    check_choice("io_dtype", io_dtype, get_args(EndsDtype))
    if not (isinstance(sparse, bool) or sparse == "auto"):
        raise ValueError(
            "`sparse` must be 'auto', True or False. "
            f"Received: sparse={sparse!r}"
        )
    if target == "micro" and quantize != "int8":
        raise ValueError(
            "`quantize` must be 'int8' with target='micro', whose files are "
            f"int8. Received: quantize={quantize!r}"
        )
    if io_dtype == "int8" and quantize != "int8":
        raise ValueError(
            "`quantize` must be 'int8' with io_dtype='int8'. "
            f"Received: quantize={quantize!r}"
        )
    refusal = TARGETS[target].refuses_sparse
    if refusal and sparse is True:
        raise ValueError(
            f"`sparse` must not be True with target={target!r}: {refusal}. "
            f"Received: sparse=True, target={target!r}"
        )
    if quantize == "dynamic" and sparse is True:
        raise ValueError(
            "`quantize='dynamic'` must not be combined with sparse=True: the "
            "runtime computes wrong numbers from such weights. Use 'int8', "
            "which can store them sparse, or sparse='auto', which stores them "
            "dense. Received: quantize='dynamic', sparse=True"
        )


def check_inputs(model, path, data, quantize):
    """Raises where a file cannot be made of such a model, or written."""
    check_model(model)
    if quantize == "int8" and data is None:
        raise ValueError(
            "`data` must hold sample inputs with quantize='int8': the ranges "
            "are measured on them. Received: data=None"
        )
    files.check_target(path)
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ImportError(
            "LiteRT files need the runtime: `pip install ai-edge-litert`, on a "
            "platform that has it."
        )
    free = [
        x.name
        for x in getattr(model, "inputs", None) or ()
        if None in x.shape[1:]
    ]
    if free and data is None:
        raise ValueError(
            "`data` must be given for inputs of free length, which the file "
            f"fixes to that of the samples. Received: data=None, {free} free"
        )


def baseline_of(baseline):
    """Returns a `keras.Model`, the path of a LiteRT file, or `None`."""
    if baseline is None or isinstance(baseline, keras.Model):
        return baseline
    rule = "`baseline` must be a keras.Model or a .tflite or .keras file"
    if not isinstance(baseline, (str, os.PathLike)):
        raise ValueError(f"{rule}. Received: baseline={baseline!r}")
    path = files.path(baseline)
    if not path.is_file():
        raise ValueError(f"{rule} that exists. Received: baseline={baseline}")
    if path.suffix == ".keras":
        try:
            with files.local(path) as file:
                return keras.saving.load_model(file, compile=False)
        except Exception as error:
            raise ValueError(
                f"{rule}. Received: baseline={baseline}, which does not load: "
                f"{one_line(error)[:300]}"
            ) from error
    with path.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            raise ValueError(f"{rule}. Received: baseline={baseline}")
    return path
