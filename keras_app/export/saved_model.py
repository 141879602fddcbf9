"""TensorFlow SavedModels that hold every weight once."""

import collections
import math
import tempfile

import keras
import numpy as np
from keras import tree

from keras_app import files
from keras_app import host
from keras_app import selection
from keras_app.checks import check_model
from keras_app.cli import one_line
from keras_app.export import fresh_process
from keras_app.export import original
from keras_app.export import portable
from keras_app.export import signature
from keras_app.export import strip
from keras_app.export import verification
from keras_app.export.export_report import ExportReport
from keras_app.export.export_report import write_report
from keras_app.hints import FilePath
from keras_app.hints import Inputs

_SIGNATURE = "serving_default"
_MARK = "saved_model.pb"  # what makes a folder a SavedModel
_SAMPLES = 32


def export_saved_model(
    model: keras.Model, path: FilePath, data: Inputs | None = None
) -> ExportReport:
    """Writes a TensorFlow SavedModel, verified, with one copy of each weight.

    `model.export` of Keras stores every weight twice. This stores the values
    of the model's variables, and one function that reads them, the signature
    `serving_default`. TensorFlow alone loads it:

    ```python
    serve = tf.saved_model.load(path).signatures["serving_default"]
    outputs = serve(image=x)["output_0"]  # or serve(x) for a single input
    ```

    An input has the name of its `keras.Input`; in a subclassed model its key
    in the dict that the model was called on, or `inputs`, or `inputs_0`,
    `inputs_1` of a list. An output has its key in the dict that the model
    returns, or `output_0`, `output_1` in the model's order. What is neither
    letter nor digit in the name of an input becomes `_`. The batch size is
    free, unless the model fixes it.

    The folder is loaded again and its outputs are compared with
    `model(x, training=False)`. A folder that passes takes the place of a
    SavedModel at `path`; otherwise all is left as it was. Look-up tables go
    with it, and the states of stateful layers, which start as they are in the
    model. From the JAX and PyTorch backends the work is done in a process with
    the TensorFlow backend, which knows the layers and functions of Keras, of
    this package, and of modules that can be imported.

    Choose it to serve a model with TensorFlow, not for its size: zeros are
    stored like any other number, and only compression makes use of them.

    Args:
        model: A built `keras.Model`. Masked weights are zero afterwards.
        path: Folder to write: new, empty, or a SavedModel to replace. The
            folder around it must exist.
        data: Sample inputs in the structure that the model takes, first axis
            the samples, of which the first 32 serve to compare. A subclassed
            model's inputs get their shapes and types from them. Strings are
            arrays, too. Defaults to random inputs, and to words that look-up
            layers know.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`.

    Raises:
        ValueError: A folder that holds something else; a model that is not
            built, that TensorFlow cannot save, or with several arguments;
            outputs with NaN; outputs that differ by more than 1e-5 of the
            largest one (1e-2 where layers compute in half precision, or an
            accelerator, which rounds factors to as many bits); classes of a
            script or notebook on the JAX and PyTorch backends.
        ImportError: TensorFlow is not installed.

    Example:

    ```python
    report = export_saved_model(model, "served", data=x_test)
    print(report)
    ```
    """
    check_model(model)
    target = files.path(path).resolve()
    _check_target(target, path)
    strip.make_ready(model)
    samples = signature.inputs_for(model, data, 4 if data is None else _SAMPLES)
    expected = _expected(model, samples, data)
    arrays = signature.in_order(model, samples)
    shapes, dtypes = signature.specs(model, arrays)
    tolerance = verification.tolerance_for(model)
    with files.replacing_folder(target, _MARK) as folder:
        arguments = {
            "path": str(folder),
            "shapes": shapes,
            "dtypes": dtypes,
            "samples": arrays,
            "expected": expected,
            "states": verification.states_of(model),
        }
        if host.BACKEND == "tensorflow":
            found = write_and_compare(model, **arguments)
        else:
            task = "keras_app.export.saved_model:write_and_compare"
            found = fresh_process.run(task, model, **arguments)
        difference = found["difference"]
        verification.check_difference("SavedModel", difference, tolerance)
    names = ", ".join(signature.names(model))
    return write_report(
        path,
        **original.described(model),
        format="saved_model",
        precision=_precision(model),
        max_difference=difference,
        notes=(
            "zeros are stored like any other number: only the compressed size "
            "gets smaller by them",
            f"{_SIGNATURE} takes {names} and gives "
            f"{', '.join(found['outputs'])}",
        ),
    )


def write(model, path, shapes, dtypes=None):
    """Writes a SavedModel on the TensorFlow backend, as it comes.

    Args:
        model: A built `keras.Model`.
        path: Folder, new or empty.
        shapes: The shape of each input, in the order of `signature.names`, with
            `None` where a length is free.
        dtypes: The type of each input. Defaults to what the model declares.

    Returns:
        The names of the outputs, in the order in which `keras.tree` flattens
        those of the model.

    Raises:
        ValueError: TensorFlow cannot save the model.
    """
    import tensorflow as tf

    names = signature.names(model)
    dtypes = dtypes or signature.declared_dtypes(model, len(names))
    specs = [
        tf.TensorSpec(*spec) for spec in zip(shapes, dtypes, names, strict=True)
    ]
    order = []

    def serve(*arrays):
        outputs = model(signature.packed(model, arrays), training=False)
        flat = tree.flatten(outputs)
        if isinstance(outputs, dict) and len(flat) == len(outputs):
            order[:] = sorted(outputs)
        else:
            order[:] = [f"output_{i}" for i in range(len(flat))]
        return dict(zip(order, flat))

    # The values, tables, and nothing that leads to them a second time.
    module = tf.Module()
    variables = [*model.variables, *verification.states_of(model)]
    module.values = [variable.value for variable in variables]
    serve = tf.function(serve, input_signature=specs, autograph=False)
    try:
        traced = serve.get_concrete_function()
        module.resources = _resources(model, module.values, traced)
        tf.saved_model.save(module, path, signatures={_SIGNATURE: traced})
    except Exception as error:
        raise ValueError(
            f"TensorFlow cannot save {model.name} as a SavedModel: "
            f"{one_line(error)[:500]}"
        ) from error
    return order


def _resources(model, values, traced):
    """Tables and TensorFlow's own variables that a traced function reads."""
    import tensorflow as tf

    captured = {id(tensor) for tensor in traced.captured_inputs}
    captured -= {id(value.handle) for value in values}
    found = {}
    for layer in selection.walk_layers(model):
        for each in tf.train.TrackableView(layer).descendants():
            if isinstance(each, tf.saved_model.experimental.TrackableResource):
                handle = each.resource_handle
            elif isinstance(each, tf.Variable):
                handle = each.handle
            else:
                continue
            if id(handle) in captured:
                found[id(each)] = each
    return list(found.values())


def write_and_compare(model, path, shapes, dtypes, samples, expected, states):
    """Writes a SavedModel, loads it and compares it, on TensorFlow.

    Args:
        model, path, shapes, dtypes: As for `write`.
        samples: Inputs, flat.
        expected: What the model gives for them, flat.
        states: Values of `verification.states_of(model)`.

    Returns:
        `{"difference": relative to the largest output, "outputs": names}`.
    """
    import tensorflow as tf

    for variable, value in zip(verification.states_of(model), states):
        variable.assign(value)
    outputs = write(model, path, shapes, dtypes)
    loaded = tf.saved_model.load(path)
    given = {
        name: tf.cast(tf.constant(array), dtype)
        for name, array, dtype in zip(signature.names(model), samples, dtypes)
    }
    received = loaded.signatures[_SIGNATURE](**given)
    received = [verification.comparable(received[x]) for x in outputs]
    difference = verification.largest_difference(expected, received)
    return {"difference": difference, "outputs": outputs}


# ---- as a step to other files ----------------------------------------------


def convert(task, model, shapes, dtypes, unroll=False, **arguments):
    """Returns what a converter says, which runs in a process of its own.

    It gets a SavedModel of the model in float32. That is written here if
    TensorFlow is the backend: its classes may be known to this process alone.

    Args:
        task: The converter, as for `fresh_process.run`. It takes `folder`, and
            `outputs`, their names in the model's order.
        model: A built `keras.Model`.
        shapes, dtypes: As for `write`.
        unroll: Whether to unroll recurrent layers.
        **arguments: What else it takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        traced = {"folder": folder, "shapes": shapes, "dtypes": dtypes}
        traced["unroll"] = unroll
        if host.BACKEND == "tensorflow":
            outputs = write_portable(model, **traced)
            return fresh_process.run(
                task, folder=folder, outputs=outputs, **arguments
            )
        there = "keras_app.export.saved_model:write_and_convert"
        return fresh_process.run(
            there, model, converter=task, traced=traced, arguments=arguments
        )


def write_portable(model, folder, shapes, dtypes, unroll):
    """As `write`, of a model as converters take it."""
    with portable.portable(model, unroll):
        return write(model, folder, shapes, dtypes)


def write_and_convert(model, converter, traced, arguments):
    """What `convert` does where the model had to be loaded."""
    outputs = write_portable(model, **traced)
    convert_it = fresh_process.function(converter)
    return convert_it(folder=traced["folder"], outputs=outputs, **arguments)


# ---- the comparison --------------------------------------------------------


def _expected(model, samples, data):
    try:
        outputs = verification.outputs_of(model, samples)
    except Exception as error:
        rule = (
            "`data` must be the one argument that the model takes"
            if data is not None
            else "`data` must be given if a model does not take random inputs"
        )
        raise ValueError(f"{rule}. Received: {one_line(error)}") from error
    numbers = [x for x in outputs if x.dtype.kind == "f"]
    if not all(np.isfinite(x).all() for x in numbers):
        raise ValueError(
            "The model's outputs must be finite to be compared with those of "
            f"the SavedModel. Received: NaN or infinities from {model.name}. "
            "If random inputs are at fault, pass others as `data`."
        )
    return outputs


def _precision(model):
    """The type that most weights are stored in."""
    count = collections.Counter({model.variable_dtype: 0})
    for weight in model.weights:
        count[weight.dtype] += math.prod(weight.shape)
    return count.most_common(1)[0][0]


# ---- the folder ------------------------------------------------------------


def _check_target(target, path):
    if not files.has_place(target):
        raise ValueError(
            "`path` must name a folder in one that exists. "
            f"Received: path={path}"
        )
    if target.is_dir():
        free = (target / _MARK).is_file() or not any(target.iterdir())
    else:
        free = not target.exists()
    if not free:
        raise ValueError(
            "`path` must be new, an empty folder, or a SavedModel to replace. "
            f"Received: path={path}, which holds something else"
        )
