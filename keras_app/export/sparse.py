"""A compressed checkpoint that stores the non-zeros only, bit for bit.

Keras itself writes and reads the state, in the folder form of its own format,
so that whatever a layer needs to come back (moving statistics, vocabularies)
does. `sparse_file` packs that folder, together with the masks and the states of
random generators, which Keras leaves out.

Private Keras names in use: `_trainable_variables`.
"""

import contextlib
import hashlib
import inspect
import json
import pathlib
import tempfile
import warnings

import keras
import numpy as np
from keras import ops

from keras_app import enforcement
from keras_app import files
from keras_app import host
from keras_app import selection
from keras_app.checks import check_model
from keras_app.export import copies
from keras_app.export import original
from keras_app.export import sparse_file
from keras_app.export.export_report import write_report
from keras_app.hints import FilePath


def save_sparse(
    model: keras.Model, path: FilePath, optimizer: bool = True
) -> None:
    """Writes a model to a compressed checkpoint, atomically.

    Per array, with b = 1 where an entry has a bit that is set (-0.0 has one):

        stored = b as bits, then the entries with b = 1;   zstd of all

    About `size / 8` bits and the non-zeros, before zstd. The masks of a pruned
    model go along, so that its training continues, and so do the states of the
    model's random generators; not that of PyTorch's own, from which Keras
    draws dropout without a seed there. `load_sparse` reads the file on every
    backend.

    Args:
        model: A built `keras.Model`, compiled or not.
        path: File to write; the suffix is free. Its folder must exist.
        optimizer: Whether to keep the optimizer's state, which for most
            optimizers is dense and larger than the weights. Without it the
            model comes back compiled the same, with its masks, and with an
            optimizer at step 0. Defaults to `True`.

    Raises:
        ValueError: The model is not built, cannot be described by its
            configuration, or was given other trainable layers after it was
            compiled; what Keras itself would load as something else: layers
            with LoRA, float8 layers, a `Distiller`; or what is read back is
            not what was written. A file that was there before stays then.
        OSError: The file cannot be written.

    Example:

    >>> import os
    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.sparse")
    ...     save_sparse(model, path)
    ...     load_sparse(path).count_params()
    9
    """
    path = files.path(path)
    check_model(model)
    _check_restorable(model)
    host.sync(model)
    # An optimizer that was never built has nothing to remember.
    keep = bool(optimizer and getattr(_optimizer(model), "built", False))
    if keep or enforcement.state_of(model) is not None:
        _check_trainable(model)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            model.save(folder / "model", zipped=False)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"{type(model).__name__} cannot be described by its "
                f"configuration: {error} Give the class `get_config`."
            ) from error
        numbers = [ops.convert_to_numpy(each) for each in copies.seeds(model)]
        body = sparse_file.pack(
            folder / "model",
            _dropped(model, optimizer, keep),
            keep,
            _masks(model, keep),
            numbers,
        )
    with files.replacing(path) as temporary:
        temporary.write_bytes(body)
        _check_readable(model, temporary, keep)


def load_sparse(path: FilePath, safe_mode: bool = True) -> keras.Model:
    """Returns the model that `save_sparse` wrote, ready to train on.

    Args:
        path: The file, written on any backend.
        safe_mode: Whether to refuse what Keras refuses by default, the code of
            lambda functions in the file. Defaults to `True`.

    Returns:
        A `keras.Model`; compiled, with optimizer state and masks
        (`keras_app.masks_of`), if the saved one was. A class with a `compile`
        of its own is compiled by it, if it takes the arguments that reached
        `keras.Model.compile`; if not, by the latter alone, with a warning, and
        what `compile` of the class makes is there after it is called again.
        The masks stay then.

    Raises:
        ValueError: The file is damaged, of another format or of a later
            version, or describes what this program does not know: classes and
            functions of one's own must be registered with Keras.
        OSError: The file is missing or cannot be read.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> save_sparse(model, "model.sparse")
    >>> load_sparse("model.sparse").output_shape
    (None, 2)
    """
    path = files.path(path)
    described, arrays = sparse_file.read(path)

    def message(reason):
        return (
            f"{path} is whole, but cannot be loaded (written with "
            f"{described['versions']}): {reason}"
        )

    with copies.explained(message):
        return _restored(described, arrays, safe_mode)


def _restored(described, arrays, safe_mode):
    """The model that a file describes."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sparse_file.unpack(described, arrays, folder)
        model = _load(described, folder, safe_mode)
    masks = {key: arrays[i] for key, i in described["masks"].items()}
    if not _optimizer(model) and (described["optimizer"] or masks):
        raise ValueError(
            "it holds the state of an optimizer, but the model does not come "
            "back compiled."
        )
    numbers = [arrays[i] for i in described["seeds"]]
    for variable, value in zip(copies.seeds(model), numbers, strict=True):
        variable.assign(value)
    if masks:
        enforcement.attach(model).load_own_variables(masks)
    return model


def _load(described, folder, safe_mode):
    """The model in Keras's folder, compiled as the saved one was."""
    with warnings.catch_warnings():
        # Without a state in the file it warns for nothing. With one, see below.
        warnings.filterwarnings("ignore", "Skipping variable loading for optim")
        warnings.filterwarnings("ignore", ".*`compile.*method is custom")
        model = keras.saving.load_model(folder, safe_mode=safe_mode)
    config = json.loads((folder / "config.json").read_text())
    config = config.get("compile_config")
    if config and not _compiled_by_keras(model):
        _compile(model, config, safe_mode)
    if described["optimizer"] and _optimizer(model):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        with warnings.catch_warnings():
            # Keras drops an optimizer's state with a mere warning.
            warnings.filterwarnings("error", "Skipping variable loading for op")
            model.load_weights(
                folder / sparse_file.WEIGHTS,
                objects_to_skip=model.layers,  # they have theirs
            )
    return model


def _compiled_by_keras(model):
    """Whether Keras knows how to compile a model that it loads."""
    kind = type(model)
    return (
        kind.compile is keras.Model.compile
        or kind.compile_from_config is not keras.Model.compile_from_config
    )


def _compile(model, config, safe_mode):
    """Compiles a model whose class has a `compile` of its own."""

    def arguments():
        return keras.saving.deserialize_keras_object(
            config, safe_mode=safe_mode
        )

    kind = type(model).__name__
    known = inspect.signature(model.compile).parameters
    takes_all = any(each.kind == each.VAR_KEYWORD for each in known.values())
    others = [
        name
        for name, each in known.items()
        if name not in config and each.kind == each.POSITIONAL_OR_KEYWORD
    ]
    taken = False
    # It may need arguments that nobody kept, or make another optimizer.
    with contextlib.suppress(Exception):
        given = arguments().items()
        model.compile(**{k: v for k, v in given if takes_all or k in known})
        taken = json.loads(json.dumps(model.get_compile_config())) == config
    if taken and not others:
        return
    if taken:
        message = (
            f"{kind}.compile was called without {', '.join(others)}, which no "
            "file holds. Call it again if they had others than their defaults; "
            "masks stay."
        )
    else:
        keras.Model.compile(model, **arguments())
        message = (
            f"{kind}.compile was not called, because it does not take what "
            "`keras.Model.compile` was given. Call it for what it makes beside "
            "optimizer, loss and metrics; masks stay."
        )
    warnings.warn(message)
    _keep_masks_once(model)


def _keep_masks_once(model):
    """Hands the masks on to the optimizer of the next `compile`."""

    def compile_once(*args, **kwargs):
        masks = _masks(model)
        del vars(model)["compile"]
        model.compile(*args, **kwargs)
        if masks:
            enforcement.attach(model).load_own_variables(masks)

    vars(model)["compile"] = compile_once


def _masks(model, keep=False):
    """`{key: array}` of a model's masks, as a side-car stores them.

    With `keep` also what pruned weights held, of use to the training alone.
    """
    masks = {}
    state = enforcement.state_of(model)
    if state is not None:
        (state.save_own_variables if keep else state.save_masks)(masks)
    return masks


def _check_readable(model, path, keep):
    """Raises unless what is read is what was written."""
    known = {**copies.functions_of(model), **copies.objects_of(model)}

    def message(reason):
        return (
            f"{type(model).__name__} cannot be read back from what was "
            f"written of it, so that no file was made: {reason} "
            f"Received: model={model.name}"
        )

    with (
        copies.explained(message),
        warnings.catch_warnings(),
        copies.undisturbed(),
        # Names mean to whoever loads it what they mean here; and the file is
        # our own.
        keras.saving.custom_object_scope(known),
    ):
        warnings.simplefilter("ignore")
        loaded = _restored(*sparse_file.read(path), safe_mode=False)
    if not _same(_digests(model, keep), _digests(loaded, keep)):
        raise ValueError(
            f"{type(model).__name__} does not come back from its file as it "
            "was, so that no file was made: its configuration makes other "
            f"weights or another optimizer. Received: model={model.name}"
        )


def _digests(model, keep):
    """What must be the same in a copy, lists of `(name, bits)`."""
    state = {}
    if keep:
        model.optimizer.save_own_variables(state)
    parts = (
        [(v.name, v) for v in model.weights],
        [("seed", v) for v in copies.seeds(model)],
        [("state", state[key]) for key in sorted(state)],
        sorted(_masks(model, keep).items()),
    )
    return [[(name, _digest(v)) for name, v in part] for part in parts]


def _digest(array):
    array = np.asarray(ops.convert_to_numpy(array))
    return (
        str(array.dtype),
        array.shape,
        hashlib.sha256(array.tobytes()).digest(),
    )


def _same(old, new):
    """Whether they are, or are in another order within their layers.

    A layer that was quantized after it was built has its variables in another
    order than one built so.
    """

    def bits(parts):
        return [[each for _, each in part] for part in parts]

    def by_name(parts):
        return [sorted(part, key=lambda pair: pair[0]) for part in parts]

    return bits(old) == bits(new) or bits(by_name(old)) == bits(by_name(new))


def export_sparse(model, path):
    """Writes a sparse checkpoint without optimizer, and a report.

    Args:
        model: A built `keras.Model`.
        path: File to write.

    Returns:
        An `ExportReport`, also written to `<path>.report.json`. Dense are the
        bytes of the weights as they are in memory.

    Raises:
        ValueError: As `save_sparse`.
    """
    save_sparse(model, path, optimizer=False)
    return write_report(
        path,
        **original.described(model),
        format="sparse",
        precision=str(keras.backend.standardize_dtype(model.variable_dtype)),
        compressed_bytes=files.path(path).stat().st_size,
        max_difference=0.0,
        compared_with="the model, bit by bit",
        dense_bytes=sum(ops.convert_to_numpy(v).nbytes for v in model.weights),
        notes=("it is compressed, and dense are the weights in memory",),
    )


def _check_restorable(model):
    """Refuses what Keras would save, and load as something else."""
    adapted = [layer.path for layer in selection.adapted_layers(model)]
    if adapted:
        raise ValueError(
            "`model` must have no layers with LoRA, which Keras merges when it "
            "saves: call `export.merge_lora(model)` first. "
            f"Received: LoRA in {selection.some(adapted)}"
        )
    if isinstance(model, keras.distillation.Distiller):
        raise ValueError(
            "`model` must not be a Distiller, which Keras loads without its "
            "optimizer: save `model.student`. "
            f"Received: {model.name}"
        )
    float8 = [
        layer.path
        for layer in selection.walk_layers(model)
        if layer.quantization_mode == "float8"
    ]
    if float8:
        raise ValueError(
            "`model` must not be in float8, which Keras loads with its "
            "variables in another order than they were trained in: save it "
            "with `model.save`; a pruner finds the zeros again. "
            f"Received: float8 in {selection.some(float8)}"
        )


def _optimizer(model):
    # A model that was never compiled lacks the attribute.
    return getattr(model, "optimizer", None)


def _dropped(model, optimizer, keep):
    """Names of the model's attributes whose state is left out of the file."""
    if optimizer:
        return set() if keep else {"optimizer"}
    kinds = vars(model).items()
    optimizers = (keras.optimizers.Optimizer,)
    return {"optimizer", *(n for n, v in kinds if isinstance(v, optimizers))}


def _check_trainable(model):
    optimizer = host.inner_optimizer(model)
    known = [id(variable) for variable in optimizer._trainable_variables]
    if known != [id(variable) for variable in model.trainable_variables]:
        raise ValueError(
            f"The optimizer of {model.name} does not train the variables that "
            "are trainable now, and its state would fit no other model. "
            "Compile the model again after changing which layers are trainable."
        )
