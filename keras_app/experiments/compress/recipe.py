"""How a model that was trained is trained on: loss, optimizer, metrics.

Private Keras names in use: `_keras_history`.
"""

import contextlib

import keras
import numpy as np

from keras_app import host
from keras_app.compression.scoring import name_of
from keras_app.compression.scoring import only

# Learning rates that were lowered to nothing at the end of a training train
# nothing; a tenth of the class's own default does.
_LEAST = 0.1
_LOOKS = 64  # at a schedule of learning rates
# Layers and operations behind which probabilities are what they were.
_PASSING = {
    *("Average", "Flatten", "Identity", "Permute", "Reshape", "Squeeze"),
    *("Transpose", "UpSampling1D", "UpSampling2D"),
}
_GO_ON = ("jit_compile", "run_eagerly")

# Whose names do not say whether the outputs are probabilities.
_CROSSENTROPIES = {
    "sparse_categorical_crossentropy": (
        keras.losses.SparseCategoricalCrossentropy
    ),
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
}


class Recipe:
    """What a model is compiled with, again and again.

    The loss, the metrics and the optimizer are those that the model was
    compiled with, where no others are given. The learning rate:

    - of an optimizer that is given: its own. A number is held while the
      network is pruned and falls to zero in a line while the small one is
      trained; a schedule is left alone, and starts over with the small one.
    - of the compiled one: the largest that its schedule gives, or its number,
      but a tenth of the default of its class at the least: many trainings end
      with a rate that has been lowered to nothing. It is held and falls as
      above.

    Args:
        model: The trained model.
        loss: A loss, its name, or `None`. Of a cross-entropy that is named,
            the model's last activation says whether it takes logits.
        optimizer: An optimizer, its name, or `None`.

    Attributes:
        loss: The loss.
        rate: The learning rate to begin with; `None` for a schedule.

    Raises:
        ValueError: There is no loss.

    References: [Renda et al., 2020](https://arxiv.org/abs/2003.02389), to
    train on at the learning rates of the training;
    [Li et al., 2020](https://arxiv.org/abs/1905.04753), to let them fall in a
    line where epochs are few.
    """

    def __init__(self, model, loss=None, optimizer=None):
        compiled = getattr(model, "compiled", False)
        self.loss = loss or (model.loss if compiled else None)
        if self.loss is None:
            raise ValueError(
                "`loss` must be given for a model that was compiled without "
                "one, such as that of a run folder. Received: loss=None, "
                f"model={model.name}"
            )
        if isinstance(loss, str) and loss in _CROSSENTROPIES:
            logits = not _gives_probabilities(model)
            self.loss = _CROSSENTROPIES[loss](from_logits=logits)
        self._config = {}
        if compiled:
            with contextlib.suppress(Exception):
                self._config = model.get_compile_config() or {}
        if optimizer is not None:
            made = keras.optimizers.get(optimizer)
            # Of a `LossScaleOptimizer`; Keras wraps again where it is needed.
            made = getattr(made, "inner_optimizer", made)
            self.rate = _number(made)
        else:
            made = host.inner_optimizer(model) if compiled else None
            made = made or keras.optimizers.Adam()
            self.rate = _rate_to_go_on_with(made)
        self._kind, self._settings = type(made), made.get_config()

    def compile(self, model):
        """Compiles a model, with an optimizer of its own."""
        settings = dict(self._settings)
        if self.rate is not None:
            settings["learning_rate"] = self.rate
        # Its variables belong to another model.
        settings.pop("name", None)
        model.compile(
            self._kind.from_config(settings),
            self.loss,
            metrics=self._metrics(),
            loss_weights=self._config.get("loss_weights"),
            **{k: self._config[k] for k in _GO_ON if k in self._config},
        )
        model.optimizer.build(model.trainable_variables)
        host.check_model(model)
        return model

    def _metrics(self):
        metrics = self._config.get("metrics")
        if metrics:
            with contextlib.suppress(Exception):
                return keras.saving.deserialize_keras_object(metrics)
        single = not isinstance(only(self.loss), (list, tuple, dict))
        is_classes = single and "crossentropy" in name_of(self.loss)
        return ["accuracy"] if is_classes else None

    @property
    def settings(self):
        """Plain values that must be equal for a run to be continued."""
        return {"loss": name_of(self.loss), "learning_rate": self.rate}


def _gives_probabilities(model):
    """Whether a softmax or a sigmoid makes the model's first output.

    So it is for a model without a graph, as it is for Keras.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return True
    last = outputs[0]._keras_history.operation
    while isinstance(last, keras.Model) or type(last).__name__ in _PASSING:
        inside = isinstance(last, keras.Model)
        tensors = last.outputs if inside else keras.tree.flatten(last.input)
        last = tensors[0]._keras_history.operation
    kinds = (
        type(last).__name__,
        getattr(getattr(last, "activation", None), "__name__", ""),
    )
    return any(kind.lower() in ("softmax", "sigmoid") for kind in kinds)


def _number(optimizer):
    """The learning rate if it is a number, else `None`."""
    rate = optimizer.get_config()["learning_rate"]
    return None if isinstance(rate, dict) else float(rate)


def _rate_to_go_on_with(optimizer):
    rate = _number(optimizer)
    if rate is None:
        schedule = keras.optimizers.schedules.deserialize(
            optimizer.get_config()["learning_rate"]
        )
        made = max(1, host.updates(optimizer))
        steps = np.linspace(0, made, _LOOKS).astype(int)
        rate = max(
            float(keras.ops.convert_to_numpy(schedule(int(step))))
            for step in steps
        )
    with contextlib.suppress(TypeError, ValueError, KeyError):
        own = type(optimizer)().get_config()["learning_rate"]
        rate = max(rate, _LEAST * float(own))
    return rate
