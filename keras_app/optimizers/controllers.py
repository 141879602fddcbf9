"""Controllers: they steer a Bregman regularizer toward a target density."""

import abc
from typing import Any
from typing import get_args

import keras

from keras_app import host
from keras_app import shares
from keras_app.checks import check_choice
from keras_app.checks import check_number
from keras_app.checks import check_whole
from keras_app.config import Configured
from keras_app.hints import Arrays
from keras_app.hints import State
from keras_app.optimizers.regularized import OnChange
from keras_app.regularizers import SparsityRegularizer
from keras_app.steering import Steering


class StrengthController(Configured, Steering, abc.ABC):
    """Measures the density of a regularizer's weights and moves its `lam`.

    Args:
        regularizer: One that the model's optimizer was given.
        target_density: Share of its weights to keep, in [0, 1].
        on_change: What happens to dual variables, see
            `BregmanOptimizer.set_strength`.
        name: Distinguishes several controllers in the logs: they then write
            `lam_{name}` and `density_{name}`. Defaults to `None`.
    """

    # What moves while a controller runs, each an attribute with an underscore.
    moving: tuple[str, ...] = ()

    def __init__(
        self,
        regularizer: SparsityRegularizer,
        target_density: float,
        on_change: OnChange,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(regularizer, SparsityRegularizer):
            raise ValueError(
                "`regularizer` must be one of keras_app.regularizers. "
                f"Received: regularizer={regularizer!r}"
            )
        check_choice("on_change", on_change, get_args(OnChange))
        self.regularizer = regularizer
        self.target_density = check_number(
            "target_density", target_density, lambda x: 0 <= x <= 1, "in [0, 1]"
        )
        self.on_change = on_change
        self.name = name

    # ---- what a controller says ----------------------------------------

    @abc.abstractmethod
    def update(self, density: float) -> None:
        """Moves `lam` once, given the density of the weights in [0, 1]."""

    def state(self) -> State:
        """Returns `(plain values, {name: array})`, what `restore` needs."""
        return {name: getattr(self, f"_{name}") for name in self.moving}, {}

    def restore(self, plain: dict[str, Any], arrays: Arrays) -> None:
        """Continues where `state()` was taken."""
        for name, value in plain.items():
            setattr(self, f"_{name}", value)

    # ---- the callback --------------------------------------------------

    def set_model(self, model):
        """Refuses a model whose optimizer has no strengths to move."""
        super().set_model(model)
        optimizer = self._optimizer()
        if not hasattr(optimizer, "set_strength"):
            raise ValueError(
                f"{type(self).__name__} moves the regularizers of LinBreg, "
                "AdaBreg or ProxSGD. Received: a model compiled with "
                f"{type(optimizer).__name__}"
            )

    def on_epoch_end(self, epoch, logs=None):
        """Adds `lam` and `density` to the logs, as they ended the epoch.

        And `sparsity_all`, the share of zeros among all weights of the model.
        """
        if logs is not None:
            end = f"_{self.name}" if self.name else ""
            logs[f"lam{end}"] = self.regularizer.lam
            logs[f"density{end}"] = self.density()
            shares.add_to_logs(logs, self.model)

    def density(self) -> float:
        """Returns the density of the regularizer's weights now."""
        return self._optimizer().density_of(self.regularizer)

    @property
    def is_at_target(self) -> bool:
        """Whether the density is now at most the target's."""
        return self.density() <= self.target_density

    def set_lam(self, lam: float) -> None:
        """Sets the strength in every optimizer that has the regularizer."""
        optimizers = list(self.regularizer.optimizers)
        if self.model is not None:
            optimizers = [self._optimizer()]
        built = [optimizer for optimizer in optimizers if optimizer.built]
        if optimizers and not built:
            raise RuntimeError(
                f"{optimizers[0].name} is not built yet, so there is no dual "
                "variable to follow `lam`. Call `fit`, or `optimizer.build("
                "model.trainable_variables)`, first."
            )
        for optimizer in built:
            optimizer.set_strength(self.regularizer, lam, self.on_change)
        self.regularizer.lam = lam

    def _optimizer(self):
        return host.inner_optimizer(self.model)


@keras.saving.register_keras_serializable(package="keras_app")
class LambdaController(StrengthController):
    """Moves `lam` by a fixed increment at the end of each epoch.

        lam <- lam + increment          while density > target
        lam <- max(lam - increment, 0)  else

    Args:
        regularizer: One that the model's optimizer was given.
        target_density: Share of its weights to keep, in [0, 1]. Defaults to
            `1.0`, with which `lam` only falls, to 0.
        increment: Step, > 0. Defaults to `0.05`.
        warmup: The first `warmup + 1` updates do nothing; an integer >= 0.
            Defaults to `0`.
        cooldown: Updates to sit out after each change; an integer >= 0.
            Defaults to `0`.
        on_change: `"reset"`: dual variables are made again, so that weights
            stay and dormant ones start over; with a small learning rate and a
            change at every epoch nothing may ever wake up. `"rescale"`:
            dormant ones keep their progress. `"keep"`: active weights jump.
            Defaults to `"reset"`.
        name: See `StrengthController`.

    Raises:
        ValueError: Bad arguments; a regularizer that the optimizer lacks.
        RuntimeError: The optimizer is not built.

    Example:

    >>> regularizer = keras_app.regularizers.L1(0.5)
    >>> controller = LambdaController(regularizer, 0.1, increment=0.25)
    >>> lams = []
    >>> for density in (0.5, 0.5, 0.5, 0.05):
    ...     controller.update(density)
    ...     lams.append(regularizer.lam)
    >>> lams
    [0.5, 0.75, 1.0, 0.75]

    Reference: [Bungert et al., 2022](https://arxiv.org/abs/2105.04319), the
    scheduler of the authors' code. Differs: it names the strength `lam`.
    """

    moving = ("warmup", "cooldown")

    def __init__(
        self,
        regularizer: SparsityRegularizer,
        target_density: float = 1.0,
        increment: float = 0.05,
        warmup: int = 0,
        cooldown: int = 0,
        on_change: OnChange = "reset",
        **kwargs: Any,
    ) -> None:
        super().__init__(regularizer, target_density, on_change, **kwargs)
        self.warmup = self._warmup = check_whole("warmup", warmup, 0)
        self.cooldown = self._cooldown = check_whole("cooldown", cooldown, 0)
        self.increment = check_number(
            "increment", increment, lambda x: x > 0, "> 0"
        )

    def update(self, density: float) -> None:
        """Moves `lam` once, given the density of the weights in [0, 1]."""
        if self._warmup >= 0:
            # One call more than asked for, as in the reference.
            self._warmup -= 1
            return
        if self._cooldown > 0:
            self._cooldown -= 1
            return
        self._cooldown = self.cooldown
        lam = self.regularizer.lam
        if density > self.target_density:
            self.set_lam(lam + self.increment)
        else:
            self.set_lam(max(lam - self.increment, 0.0))

    def on_epoch_end(self, epoch, logs=None):
        """Updates, and adds `lam` and `density` to the logs."""
        self.update(self.density())
        super().on_epoch_end(epoch, logs)


@keras.saving.register_keras_serializable(package="keras_app")
class DensityController(StrengthController):
    """Hits a target density by multiplying `lam`, at every so many steps.

        gap = target sparsity - sparsity
        lam <- lam (1 + a |gap|)   if gap > 0, else   lam / (1 + a |gap|)
        a = gain * decay ^ max(c - 1, 0),  c the sign changes of gap so far

    Free of scale: it works from any `lam > 0`, and calms down once it has
    crossed the target. Prefer it to `LambdaController` where the density that
    comes out matters.

    Args:
        regularizer: One that the model's optimizer was given, with `lam > 0`.
        target_density: Share of its weights to keep, in [0, 1].
        frequency: Steps between updates, an integer >= 1. Defaults to `100`.
        gain: How far one update goes, > 0. Defaults to `1.0`.
        decay: Factor on the gain at each further crossing, in (0, 1].
            Defaults to `0.95`.
        on_change: See `LambdaController`. Defaults to `"rescale"`.
        name: See `StrengthController`.

    Raises:
        ValueError, RuntimeError: See `LambdaController`; and for `lam` 0.

    Example:

    >>> regularizer = keras_app.regularizers.L1(0.5)
    >>> DensityController(regularizer, target_density=0.25).update(0.75)
    >>> regularizer.lam
    0.75

    Reference: our formulation of the sparsity targets in [arXiv
    2605.07892](https://arxiv.org/abs/2605.07892).
    """

    moving = ("sign", "crossings", "steps")

    def __init__(
        self,
        regularizer: SparsityRegularizer,
        target_density: float,
        frequency: int = 100,
        gain: float = 1.0,
        decay: float = 0.95,
        on_change: OnChange = "rescale",
        **kwargs: Any,
    ) -> None:
        super().__init__(regularizer, target_density, on_change, **kwargs)
        if regularizer.lam == 0:
            raise ValueError(
                "`regularizer` must have lam > 0, which is multiplied. "
                "Received: lam=0.0"
            )
        self.frequency = check_whole("frequency", frequency, 1)
        self.gain = check_number("gain", gain, lambda x: x > 0, "> 0")
        self.decay = check_number(
            "decay", decay, lambda x: 0 < x <= 1, "in (0, 1]"
        )
        self._sign = 0
        self._crossings = 0
        self._steps = 0
        self._stride = 1

    def update(self, density: float) -> None:
        """Moves `lam` once, given the density of the weights in [0, 1]."""
        gap = density - self.target_density  # as sparsities the other way
        sign = (gap > 0) - (gap < 0)
        self._crossings += sign * self._sign < 0
        self._sign = sign or self._sign
        a = self.gain * self.decay ** max(self._crossings - 1, 0)
        factor = 1.0 + a * abs(gap)
        lam = self.regularizer.lam
        self.set_lam(lam * factor if gap > 0 else lam / factor)

    def set_model(self, model):
        """Refuses a model whose optimizer has no strengths to move."""
        super().set_model(model)
        # Kept here, because on JAX every look at `self.model` in the middle
        # of an epoch writes all variables back.
        self._stride = model.steps_per_execution

    def on_train_batch_begin(self, batch, logs=None):
        """Updates once in `frequency` steps."""
        if self._steps and self._steps % self.frequency == 0:
            self.update(self.density())
        self._steps += self._stride
