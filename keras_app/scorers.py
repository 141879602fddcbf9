"""Scores of weights: larger is kept.

Six scorers by name, and any callable in their place. `g` is the gradient of
the mean loss of a batch with respect to the *effective* weight `m * w`; sums
run over the batches of the data, in order; absolute values are taken last.

    magnitude   |w|
    random      a standard normal draw
    snip        |sum_b g w| / sum_j |sum_b g w|_j
    taylor      |sum_b g m w|
    grasp       m w (H g) / (|sum_j m w (H g)| + 1e-10),  signed
    synflow     |R w|, R = d(sum of outputs)/dw of the network of absolute
                values on an all-ones input

References: SNIP, [Lee et al., 2019](https://arxiv.org/abs/1810.02340); Taylor,
[Molchanov et al., 2019](https://arxiv.org/abs/1906.10771); GraSP,
[Wang et al., 2020](https://arxiv.org/abs/2002.07376); SynFlow,
[Tanaka et al., 2020](https://arxiv.org/abs/2006.05467).
"""

import contextlib
import difflib
import types
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_app import batches
from keras_app import gradients
from keras_app import selection
from keras_app import split
from keras_app.hints import Arrays
from keras_app.hints import Data
from keras_app.hints import Loss
from keras_app.hints import Variables

BatchNormMode = Literal["train", "inference"]

_Name = Literal["magnitude", "random", "snip", "taylor", "grasp", "synflow"]
# The name of a scorer, or `(model, variables, data, masks) -> [array]`.
Scorer = _Name | Callable[..., Sequence[Any]]

__all__ = ["score"]


def score(
    scorer: Scorer,
    model: keras.Model,
    variables: Sequence[keras.Variable] | Variables,
    data: Data | None = None,
    bn_mode: BatchNormMode | None = None,
    *,
    masks: Arrays | None = None,
    weights: Arrays | None = None,
    loss: Loss | None = None,
    compiled: dict[Any, Any] | None = None,
    **options: Any,
) -> Arrays:
    """Scores the entries of some weights, without changing the model.

    Args:
        scorer: `"magnitude"`, `"random"`, `"snip"`, `"taylor"`, `"grasp"`,
            `"synflow"`, or a callable with the arguments `(model, variables,
            data, masks)` that returns a list of arrays.
        model: A built `keras.Model`.
        variables: Trainable variables of the model, a list or `{path:
            variable}`.
        data: Arrays `(x, y)`, or a re-iterable of such batches, whose further
            parts do not count. Needed by `"snip"`, `"taylor"` and `"grasp"`.
        bn_mode: `"train"` (batch statistics, dropout active) or `"inference"`.
            Defaults to `"train"`; SynFlow is defined in inference mode only
            and always scored there.
        masks: `{path: bool array}` of weights that are stored dense but
            pruned; the network computes with `m * w`. Defaults to `None`: the
            stored weights are the effective ones.
        weights: `{path: array}` to score instead of the stored weights.
        loss: `(y, outputs) -> scalar`, or a Keras loss or its name. Defaults
            to `None`: the loss the model was compiled with, without penalties
            on weights; for `"snip"` and `"taylor"` the model's `compute_loss`
            where there are several outputs or it overrides that; for a model
            never compiled, cross-entropy of integer labels.
        compiled: A dict to hand to every call with the same settings: JAX
            then compiles once for a model and a `model.compile`. Defaults to
            `None`.
        **options: What one scorer alone asks for; others pass it over.
            `seed`: of `"random"`, an integer. The draws are the same on every
            backend. Defaults to `None`: fresh draws. `samples_per_class`: size
            of GraSP's two class-balanced samples, which are filled in the
            order of the data; two passes over the data give two samples.
            Defaults to `10`. `temperature`: GraSP divides the logits by it.
            Defaults to `200.0`.

    Returns:
        `{variable.path: array of its shape}`, floating point: in NumPy, but
        of weights that are split over devices split alike.

    Raises:
        ValueError: Unknown scorer or mode; no data where it is needed; a model
            without a loss, or one that the scorer cannot take; too few samples
            of a class for GraSP.
        TypeError: An option that no scorer has.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> [values] = score("magnitude", model, [model.layers[0].kernel]).values()
    >>> bool((values == np.abs(model.layers[0].get_weights()[0])).all())
    True
    """
    check_scorer(scorer, bn_mode)
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise TypeError(
            f"`score` has no option {unknown[0]!r}. Scorers take "
            f"{', '.join(_OPTIONS)}."
        )
    if not isinstance(variables, dict):
        variables = selection.paths_of(variables)
    masks = [(masks or {}).get(path) for path in variables]
    data = batches.cut(data)
    if callable(scorer):
        return _scores_of(scorer, model, variables, data, masks)
    check_data(scorer, data)
    check_model(scorer, model, loss)
    latent = [
        _at_least_float32(split.read((weights or {}).get(path, variable)))
        for path, variable in variables.items()
    ]
    effective = [
        w if mask is None else w * mask for w, mask in zip(latent, masks)
    ]
    # `latent` is what is scored, `effective` what the network computes with.
    asked = types.SimpleNamespace(
        model=model,
        data=data,
        masks=masks,
        latent=latent,
        effective=effective,
        variables=list(variables.values()),
        bn_mode=bn_mode,
        loss=loss,
        compiled=compiled,
        **{**_OPTIONS, **options},
    )
    return dict(zip(variables, _SCORERS[scorer](asked)))


# What one scorer alone asks for, and what it does unasked.
_OPTIONS = {"seed": None, "samples_per_class": 10, "temperature": 200.0}

NEEDS_DATA = ("snip", "taylor", "grasp")


def check_scores(name: str, scores: Arrays, variables: Variables) -> None:
    """Raises unless there are scores of its shape for every variable.

    Args:
        name: Who gave them, for the message.
        scores: `{path: array}`.
        variables: `{path: variable}`.
    """
    for path, variable in variables.items():
        shape = tuple(variable.shape)
        found = np.shape(scores[path]) if path in scores else None
        if found != shape:
            raise ValueError(
                f"Scores must have the shapes of their weights. Received: "
                f"{'none' if found is None else found} of {name} for {path}, "
                f"whose shape is {shape}"
            )


def check_scorer(scorer: Any, bn_mode: Any = None) -> None:
    """Raises unless the scorer is known, or a callable, and so is its mode."""
    if bn_mode not in (None, "train", "inference"):
        raise ValueError(
            "`bn_mode` must be 'train' or 'inference'. "
            f"Received: bn_mode={bn_mode!r}"
        )
    if callable(scorer) or scorer in NAMES:
        return
    near = difflib.get_close_matches(str(scorer).lower(), NAMES, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`scorer` must be one of {', '.join(NAMES)}, or a callable. "
        f"Received: scorer={scorer!r}.{hint}"
    )


def takes_data(scorer: Scorer) -> bool:
    """Whether a scorer needs data; a callable may.

    Example:

    >>> takes_data("snip"), takes_data("synflow")
    (True, False)
    """
    return callable(scorer) or scorer in NEEDS_DATA


def check_data(scorer: Scorer, data: Data | None) -> None:
    """Raises if `scorer` needs data and there is none."""
    if scorer in NEEDS_DATA and data is None:
        raise ValueError(
            f"The scorer {scorer!r} needs `data`, a re-iterable of (x, y) "
            "batches. Received: data=None"
        )


def check_model(
    scorer: Scorer, model: keras.Model, loss: Loss | None = None
) -> None:
    """Raises if `scorer` cannot score such a model, with such a loss.

    Args:
        scorer: See `score`.
        model: A built `keras.Model`.
        loss: See `score`.

    Raises:
        ValueError: For `"snip"` and `"taylor"`, a model compiled without a
            loss; for `"grasp"`, other than one output and one loss that can
            take logits; for `"synflow"`, other than one input and one output.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> check_model("snip", model)
    """
    shape = getattr(model, "output_shape", None)
    has_one_output = _is_known(shape)
    if scorer in ("snip", "taylor"):
        if loss is None and model.compiled and _has_no_loss(model):
            raise ValueError(
                "Gradients on `data` need the loss that the model trains with, "
                f"but {model.name!r} was compiled without. Pass `loss` to "
                "`model.compile`, or override `compute_loss`."
            )
    elif scorer == "grasp":
        if not has_one_output:
            raise ValueError(
                "GraSP needs a functional or sequential model with one output "
                f"of known size. Received: {type(model).__name__} "
                f"{model.name!r} with output_shape={shape}. Use 'snip'."
            )
        _logit_loss(model, loss)
    elif scorer == "synflow":
        inputs = getattr(model, "input_shape", None)
        if not has_one_output or not _is_known(inputs):
            raise ValueError(
                "SynFlow needs a functional or sequential model with one input "
                "of known shape and one output. Received: "
                f"{type(model).__name__} {model.name!r} with "
                f"input_shape={inputs}, output_shape={shape}. Use 'snip'."
            )


def _is_known(shape):
    return isinstance(shape, tuple) and all(
        isinstance(size, int) for size in shape[1:]
    )


def _has_no_loss(model):
    return getattr(model, "loss", None) is None and not _computes_loss(model)


def _computes_loss(model):
    """Whether it has a way of its own, as a `Distiller` has."""
    return type(model).compute_loss is not keras.Model.compute_loss


def _scores_of(scorer, model, variables, data, masks):
    """The scores of a callable, checked."""
    found = scorer(model, list(variables.values()), data, masks)
    found = [np.asarray(values) for values in found]
    name = getattr(scorer, "__name__", type(scorer).__name__)
    if len(found) != len(variables):
        raise ValueError(
            "`scorer` must return an array for each of the variables. "
            f"Received: {len(found)} arrays of {name} for {len(variables)}"
        )
    scores = dict(zip(variables, found))
    check_scores(name, scores, variables)
    return scores


# ---- the scorers, each a list of scores for what `score` was asked -----------


def _pure_loss(asked, objective, **how):
    return gradients.PureLoss(
        asked.model, asked.variables, objective, compiled=asked.compiled, **how
    )


def _magnitude(asked):
    return [abs(w) for w in asked.latent]


def _random(asked):
    generator = np.random.default_rng(asked.seed)
    return [generator.standard_normal(w.shape) for w in asked.latent]


def _snip(asked):
    scores = _saliency(asked, asked.latent)
    total = _sum(scores)
    return _divided(scores, total) if total else scores


def _taylor(asked):
    return _saliency(asked, asked.effective)


def _saliency(asked, weights):
    objective = _objective(asked.model, asked.loss)
    training = asked.bn_mode != "inference"
    pure = _pure_loss(asked, objective, training=training)
    total = None
    for x, y, *_ in asked.data:
        batch = pure.gradient(asked.effective, x, y)
        total = (
            batch if total is None else [a + b for a, b in zip(total, batch)]
        )
    if total is None:
        raise ValueError("`data` must hold at least one batch. Received none.")
    return [abs(g * w) for g, w in zip(total, weights)]


def _grasp(asked):
    model, effective = asked.model, asked.effective
    loss = _logit_loss(model, asked.loss)

    def objective(y, logits):
        return loss(y, logits / asked.temperature)

    def sample():
        classes = model.output_shape[-1]
        return _balanced_sample(asked.data, classes, asked.samples_per_class)

    training = asked.bn_mode != "inference"
    second_order = gradients.exact_second_derivatives(
        selection.walk_layers(model), training
    )
    with _logits(model), second_order:
        pure = _pure_loss(asked, objective, training=training)
        g = pure.gradient(effective, *sample())
        # Pruned weights cannot move, so they are no part of the direction.
        g = [a if m is None else a * m for a, m in zip(g, asked.masks)]
        hg = pure.hessian_vector_product(effective, g, *sample())
    products = [w * h for w, h in zip(effective, hg)]
    return _divided(products, abs(_sum(products)) + 1e-10)


def _synflow(asked):
    if asked.bn_mode == "train":
        warnings.warn(
            "SynFlow is defined in inference mode only: scoring there, not "
            "with bn_mode='train'."
        )
    model, effective = asked.model, asked.effective
    with _logits(model):
        pure = _pure_loss(asked, lambda _, z: ops.sum(z), absolute=True)
        ones = np.ones((1, *model.input_shape[1:]), keras.config.floatx())
        flow = pure.gradient([abs(w) for w in effective], ones, None)
    return [abs(r * w) for r, w in zip(flow, effective)]


_SCORERS = {
    "magnitude": _magnitude,
    "random": _random,
    "snip": _snip,
    "taylor": _taylor,
    "grasp": _grasp,
    "synflow": _synflow,
}
NAMES = tuple(_SCORERS)


def _balanced_sample(data, classes, samples_per_class):
    """The first `samples_per_class` examples of each class, class by class."""
    found = {label: [] for label in range(classes)}
    for x, y, *_ in data:
        x = keras.tree.map_structure(ops.convert_to_numpy, x)
        y = ops.convert_to_numpy(y)
        labels = y.argmax(-1) if y.ndim > 1 and y.shape[-1] > 1 else y.ravel()
        for i, label in enumerate(labels):
            if int(label) not in found:
                raise ValueError(
                    f"`data` must have labels from 0 to {classes - 1}, one for "
                    f"each output of the model. Received: {int(label)}"
                )
            if len(found[int(label)]) < samples_per_class:
                row = keras.tree.map_structure(lambda part, i=i: part[i], x)
                found[int(label)].append((row, y[i]))
        if all(len(rows) == samples_per_class for rows in found.values()):
            break
    short = {c: len(r) for c, r in found.items() if len(r) < samples_per_class}
    if short:
        raise ValueError(
            f"GraSP needs {samples_per_class} samples of each of {classes} "
            f"classes in `data`. Received, by class: {short}. Give it more "
            "data, or lower `samples_per_class`."
        )
    rows = [row for label in range(classes) for row in found[label]]
    x = keras.tree.map_structure(lambda *p: np.stack(p), *[r[0] for r in rows])
    return x, np.stack([row[1] for row in rows])


def _at_least_float32(array):
    return array if array.dtype.itemsize >= 4 else array.astype("float32")


def _sum(arrays):
    """The sum of all entries, in double precision, as a NumPy float."""
    with split.precisely(*arrays):
        return sum(np.float64(a.sum(dtype="float64")) for a in arrays)


def _divided(arrays, number):
    """Quotients in double precision: two scores never become one."""
    with split.precisely(*arrays):
        return [array / number for array in arrays]


def _ends_in_softmax(model):
    activation = getattr(model.layers[-1], "activation", None)
    return activation is keras.activations.softmax


@contextlib.contextmanager
def _logits(model):
    """While open, the model's last layer leaves out its softmax."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        raise ValueError(
            "This scorer needs logits, but the model ends in a Softmax layer. "
            "Leave the layer out and use a loss with `from_logits=True`."
        )
    if not _ends_in_softmax(model):
        yield
        return
    last.activation = keras.activations.linear
    try:
        yield
    finally:
        last.activation = keras.activations.softmax


def _objective(model, loss):
    """`(y, outputs) -> scalar`; `None` for `model.compute_loss`."""
    if loss is not None:
        return _mean_of(loss)
    own = getattr(model, "loss", None)
    if not _computes_loss(model) and (isinstance(own, str) or callable(own)):
        return _mean_of(own)
    if model.compiled:
        return None
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=not _ends_in_softmax(model)
    )


def _mean_of(loss):
    loss = keras.losses.get(loss)
    # A function such as `categorical_crossentropy` gives one loss a row.
    return lambda y, outputs: ops.mean(loss(y, outputs))


_CROSS_ENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
)


def _logit_loss(model, loss):
    """The model's loss, taking logits: a softmax last layer is left out."""
    loss = getattr(model, "loss", None) if loss is None else loss
    if loss is None and not model.compiled:
        loss = "sparse_categorical_crossentropy"
    elif not _ends_in_softmax(model) and (
        isinstance(loss, str) or callable(loss)
    ):
        return _mean_of(loss)
    for kind in _CROSS_ENTROPIES:
        if isinstance(loss, kind) or loss == kind().name:
            return kind(from_logits=True)
    raise ValueError(
        f"GraSP divides the logits, so that {model.name!r} must be compiled "
        "with one loss, and if it ends in a softmax, with one that can take "
        f"logits. Received: loss={loss!r}. Use 'snip'."
    )
