"""Derivatives of a loss with respect to some of a model's weights.

Everything runs in a `keras.StatelessScope`, so the model is a pure function of
the values handed in: neither weights nor moving statistics nor seeds change,
on any backend.
"""

import contextlib
import functools
import inspect

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app import selection
from keras_app import split

# Gradients of float16 layers vanish below 6e-8, so the loss is scaled, by less
# where the gradients overflow.
_FLOAT16_SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)


class PureLoss:
    """`loss(y, model(x))` as a function of the values of some variables.

    Args:
        model: A built `keras.Model`.
        variables: The trainable variables to differentiate by.
        objective: `(y, outputs) -> scalar tensor`, or `None` for the loss that
            `fit` minimizes, `model.compute_loss`.
        training: Whether layers run in training mode. Their state (moving
            statistics, seeds) goes from batch to batch inside this object and
            never reaches the model.
        absolute: Whether every weight and moving statistic of the model is
            replaced by its absolute value, as SynFlow asks. The values handed
            in are used as they are.
        compiled: A dict that keeps what JAX compiles, so that a later
            `PureLoss` with the same other arguments need not compile again,
            unless `model.compile` was called. Defaults to `None`: a new one.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> kernel = model.layers[0].kernel
    >>> loss = PureLoss(model, [kernel], lambda y, z: ops.sum(z))
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> [g] = loss.gradient(model.get_weights()[:1], x, None)
    >>> g.ravel().tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        model,
        variables,
        objective,
        training=False,
        absolute=False,
        compiled=None,
    ):
        self.model = model
        self.objective = objective
        self.training = training
        ids = [id(variable) for variable in model.trainable_variables]
        self._positions = [ids.index(id(variable)) for variable in variables]
        self._read = _absolute if absolute else ops.convert_to_tensor
        self._state = [self._read(v) for v in model.non_trainable_variables]
        self._compiled = {} if compiled is None else compiled
        self._forget_what_is_stale(variables)
        half = any(
            layer.compute_dtype == "float16"
            for layer in selection.walk_layers(model)
        )
        self._scales = _FLOAT16_SCALES if half else (1.0,)

    def gradient(self, values, x, y):
        """Gradient at `values` (one array a variable), as arrays like them.

        In NumPy, but where values are split over devices.
        """
        return self._run(_gradient, values, x, y)

    def hessian_vector_product(self, values, vector, x, y):
        """`H vector` at `values`: the gradient of `sum(vector * gradient)`."""
        vector = [ops.convert_to_tensor(v) for v in vector]
        return self._run(_hessian_vector_product, values, x, y, vector)

    def _forget_what_is_stale(self, variables):
        """Empties `compiled` if the model was compiled again, or is another."""
        model = self.model
        # Each `compile` makes a metric for its loss.
        compiled_for = [
            model,
            getattr(model, "optimizer", None),
            getattr(model, "loss", None),
            *model.metrics,
            *model.trainable_variables,
            *variables,
        ]
        before = self._compiled.get("for", [])
        if [id(each) for each in before] != [id(each) for each in compiled_for]:
            self._compiled.clear()
            self._compiled["for"] = compiled_for

    def _run(self, derivative, values, x, y, *extra):
        weights = [self._read(v) for v in self.model.trainable_variables]
        values = [
            ops.convert_to_tensor(value, weights[i].dtype)
            for i, value in zip(self._positions, values)
        ]
        x, y = keras.tree.map_structure(
            lambda part: None if part is None else _to_tensor(part), (x, y)
        )
        run = functools.partial(derivative, self._loss)
        if host.BACKEND == "jax":
            # One compilation for each batch shape; op by op takes minutes.
            import jax

            # Of what is split a device may have no room for more.
            layouts = [split.layout(value) for value in values]
            compiled = jax.jit(run, out_shardings=(layouts, None))
            run = self._compiled.setdefault(derivative, compiled)
        for scale in self._scales:
            # Metrics that Keras makes for its losses get their values when
            # this scope ends, and so outside of what is traced.
            with keras.StatelessScope():
                result, state = run(
                    values, weights, self._state, x, y, scale, *extra
                )
            # In float32, where what was scaled has a place.
            result = [split.read(part) / np.float32(scale) for part in result]
            if all(map(split.all_finite, result)):
                break
        self._state = state
        return result

    def _loss(self, values, weights, state, x, y, scale):
        model = self.model
        weights = list(weights)
        for position, value in zip(self._positions, values):
            weights[position] = value
        mapping = [
            *zip(model.trainable_variables, weights),
            *zip(model.non_trainable_variables, state),
        ]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = model(x, **self._mode(model.call))
            if self.objective is None:
                value = model.compute_loss(
                    x, y, outputs, None, **self._mode(model.compute_loss)
                )
            else:
                value = self.objective(y, outputs)
            state = [
                scope.get_current_value(variable)
                for variable in model.non_trainable_variables
            ]
        return value * scale, state

    def _mode(self, method):
        """`training`, if a method of the user's takes it, as in `fit`."""
        takes_it = "training" in inspect.signature(method).parameters
        return {"training": self.training} if takes_it else {}


def _to_tensor(part):
    # The data may come as tensors of another framework, as tf.data's do.
    return ops.convert_to_tensor(np.asarray(part))


def _gradient(loss, values, *args, again=False):
    """The gradient and the state; `again`: to be differentiated once more."""
    if host.BACKEND == "jax":
        import jax

        return jax.grad(loss, has_aux=True)(values, *args)
    if host.BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            value, state = loss(values, *args)
        found = tape.gradient(value, values, unconnected_gradients="zero")
        # The gradient of a gathered weight comes as slices.
        return [ops.convert_to_tensor(part) for part in found], state
    import torch

    with torch.enable_grad():
        if not again:
            values = [v.detach().clone().requires_grad_() for v in values]
        value, state = loss(values, *args)
        found = torch.autograd.grad(
            value, values, create_graph=again, allow_unused=True
        )
    return [
        torch.zeros_like(v) if g is None else g for v, g in zip(values, found)
    ], state


def _hessian_vector_product(loss, values, weights, state, x, y, scale, vector):
    def slope(values):
        gradient, after = _gradient(
            loss, values, weights, state, x, y, scale, again=True
        )
        return sum(ops.sum(v * g) for v, g in zip(vector, gradient)), after

    with _twice_differentiable_attention():
        return _gradient(slope, values)


def _twice_differentiable_attention():
    """PyTorch's fused attention kernels have no second derivative."""
    if host.BACKEND != "torch":
        return contextlib.nullcontext()
    from torch.nn.attention import sdpa_kernel
    from torch.nn.attention import SDPBackend

    return sdpa_kernel(SDPBackend.MATH)


@contextlib.contextmanager
def exact_second_derivatives(layers, training):
    """Makes normalization layers twice differentiable on TensorFlow.

    TensorFlow's `moments` stops the gradient through the mean inside the
    variance. First derivatives do not notice; second ones in training mode are
    wrong. While this context is open, batch normalization uses plain means.

    Args:
        layers: The layers of a model.
        training: Whether they run in training mode.

    Raises:
        ValueError: For a layer that cannot be replaced like that.
    """
    if host.BACKEND != "tensorflow":
        yield
        return
    replaced = []
    for layer in layers:
        if _takes_moments(layer):
            raise ValueError(
                "GraSP needs second derivatives, which TensorFlow computes "
                f"wrongly for {type(layer).__name__} ({layer.name!r}). Use the "
                "JAX or the PyTorch backend, or another scorer."
            )
        if not training or not isinstance(
            layer, keras.layers.BatchNormalization
        ):
            continue
        if type(layer) is not keras.layers.BatchNormalization or getattr(
            layer, "renorm", False
        ):
            raise ValueError(
                "GraSP in training mode needs second derivatives, which "
                f"TensorFlow computes wrongly for {type(layer).__name__} "
                f"({layer.name!r}). Use `bn_mode='inference'`."
            )
        replaced.append(layer)
    try:
        for layer in replaced:
            object.__setattr__(layer, "call", _plain_batch_norm(layer))
        yield
    finally:
        for layer in replaced:
            object.__delattr__(layer, "call")


def _takes_moments(layer):
    """Whether a layer uses them in inference mode as well."""
    if isinstance(layer, keras.layers.GroupNormalization):
        return True
    several = isinstance(getattr(layer, "axis", None), (list, tuple))
    return (
        isinstance(layer, keras.layers.LayerNormalization)
        and several
        and len(layer.axis) > 1
    )


def _plain_batch_norm(layer):
    stored_call = layer.call

    def call(inputs, training=None, mask=None):
        if not training or mask is not None:
            return stored_call(inputs, training=training, mask=mask)
        axes = [i for i in range(len(inputs.shape))]
        axes.remove(layer.axis % len(inputs.shape))
        shape = [1] * len(inputs.shape)
        shape[layer.axis] = inputs.shape[layer.axis]
        mean = ops.mean(inputs, axes, keepdims=True)
        variance = ops.mean(ops.square(inputs - mean), axes, keepdims=True)
        outputs = (inputs - mean) * ops.rsqrt(variance + layer.epsilon)
        if layer.scale:
            outputs = outputs * ops.reshape(layer.gamma, shape)
        if layer.center:
            outputs = outputs + ops.reshape(layer.beta, shape)
        return outputs

    return call


def _absolute(variable):
    value = ops.convert_to_tensor(variable)
    dtype = keras.backend.standardize_dtype(value.dtype)
    return ops.abs(value) if "float" in dtype else value
