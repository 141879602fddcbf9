"""Compression of a trained model to a target, as an experiment."""

import dataclasses
import math
from typing import Any
from typing import Literal
from typing import Self

import keras
import numpy as np

from keras_app.checks import check_int
from keras_app.checks import check_model
from keras_app.compression import cuts
from keras_app.compression import scoring
from keras_app.compression import targets
from keras_app.compression.report import CompressionReport
from keras_app.compression.report import rows_of
from keras_app.compression.targets import Target
from keras_app.experiments.compress.examples import count_of
from keras_app.experiments.compress.examples import Examples
from keras_app.experiments.compress.examples import in_memory
from keras_app.experiments.compress.learner import Compressing
from keras_app.experiments.compress.recipe import Recipe
from keras_app.experiments.experiment import Experiment
from keras_app.experiments.experiment import Learner
from keras_app.experiments.experiment import Table
from keras_app.export import signature
from keras_app.hints import Data
from keras_app.hints import Loss
from keras_app.hints import Quantize
from keras_app.masks import Structure
from keras_app.report import summarize

_QUANTIZE = (None, "float16", "dynamic", "int8")


@dataclasses.dataclass(frozen=True, eq=False)
class Compress(Experiment):
    """Compresses a trained model to a target, and measures what came of it.

    See `keras_app.compress`, which takes the same arguments.

    Args:
        model: A built `keras.Model`, trained.
        data: `(x, y)`, or batches such as a `tf.data.Dataset`.
        target: Such as `"latency:0.5"`; see `keras_app.compress`.
        validation_data: The same as `data`, of other examples. Defaults to
            `None`.
        epochs: Epochs of all training, >= 2. Defaults to `10`.
        optimizer: An optimizer, or its name. Defaults to that of the model.
        loss: A loss, or its name. Defaults to that of the model.
        structure: `"auto"`, or for a sparsity one of `keras_app.masks`.
            Defaults to `"auto"`.
        quantize: `None`, `"float16"`, `"dynamic"` or `"int8"`: what the file
            is. Defaults to `None`.
        multiple_of: Channels go so many at once. Defaults to `8`.
        batch_size: Of arrays. Defaults to `None`: 128 of 10,000 examples or
            more, 32 of fewer.
        seed: Seed of everything, >= 0. Defaults to `0`.

    Raises:
        ValueError: Bad arguments, here or when it is run, before anything is
            trained.

    Example:

    ```python
    model = keras.saving.load_model("trained.keras")
    summary = Compress(model, (x, y), "latency:0.5").run("runs/half")
    ```
    """

    model: keras.Model
    data: Data
    target: str
    _: dataclasses.KW_ONLY
    validation_data: Data | None = None
    epochs: int = 10
    optimizer: str | keras.optimizers.Optimizer | None = None
    loss: Loss | None = None
    structure: Structure | Literal["auto"] | None = "auto"
    quantize: Quantize | None = None
    multiple_of: int = 8
    batch_size: int | None = None

    kind = "compress"
    methods = ("compressed",)
    _objects = Experiment._objects | {"validation_data", "loss", "structure"}
    _least = {**Experiment._least, "epochs": 2, "multiple_of": 1}
    _choices = {"quantize": _QUANTIZE}

    def __post_init__(self):
        """Raises on arguments out of their range."""
        super().__post_init__()
        parsed = targets.parse(self.target)
        if self.batch_size is not None:
            check_int("batch_size", self.batch_size, 1)
        structure = self.structure
        if structure == "auto":
            return
        if not isinstance(structure, Structure):
            raise TypeError(
                "`structure` must be 'auto' or a structure of keras_app.masks. "
                f"Received: structure={structure!r}"
            )
        if parsed.quantity != "sparsity":
            raise ValueError(
                "`structure` must be 'auto', which cuts channels, unless a "
                f"sparsity is asked for. Received: structure={structure!r}, "
                f"target={self.target!r}"
            )
        fixed = getattr(structure, "sparsity", None)
        if fixed is not None and not math.isclose(parsed.value, fixed):
            raise ValueError(
                f"`target` must be 'sparsity:{fixed:g}' with "
                f"structure={structure!r}, which fixes it. "
                f"Received: target={self.target!r}"
            )

    @property
    def parsed(self) -> Target:
        """The target."""
        return targets.parse(self.target)

    @property
    def recipe(self) -> Recipe:
        """How models are compiled."""
        return Recipe(self.model, self.loss, self.optimizer)

    @property
    def total_epochs(self) -> int | None:
        """Epochs of all stages; those of steps are not known before."""
        return None if self.parsed.quantity == "accuracy" else self.epochs

    def resolved(self) -> Self:
        """Returns the experiment with its data made ready, and checked."""
        check_model(self.model)
        _ = self.recipe  # raises without a loss
        if self.parsed.quantity != "sparsity":
            cuts.check_graph(self.model)
        data = self.data
        if not isinstance(data, Examples):
            data = Examples(data, self.batch_size, self.seed)
        validation = self.validation_data
        if validation is not None:
            validation = in_memory("validation_data", validation)
        ready = dataclasses.replace(self, data=data, validation_data=validation)
        ready._check_fit("data", data.head(8), data.targets)
        if validation is not None:
            first = keras.tree.map_structure(lambda a: a[:8], validation)
            ready._check_fit("validation_data", first, validation[1])
        if self.parsed.quantity == "accuracy":
            ready._check_accuracy()
        return ready

    def _check_fit(self, name, batch, targets):
        """Raises unless the model and its loss take a batch.

        Args:
            name: Of the argument that it is from.
            batch: `(x, y)`.
            targets: All y, or those of the batch where not all are at hand.
        """
        x, y = batch
        wanted = _input_shapes(self.model)
        try:
            arrays = signature.in_order(self.model, x)
        except KeyError:  # inputs of other names
            arrays = []
        given = [a.shape for a in arrays]
        fits = wanted is None or (
            len(wanted) == len(given)
            and all(
                len(a) == len(b)
                and all(i in (None, j) for i, j in zip(a[1:], b[1:]))
                for a, b in zip(wanted, given)
            )
        )
        if not fits:
            raise ValueError(
                f"`{name}` must hold inputs that the model takes, of shape "
                f"{_listed(s[1:] for s in wanted)}. Received: inputs of shape "
                f"{_listed(s[1:] for s in given)}"
            )
        try:
            outputs = self.model(x, training=False)
            if len(keras.tree.flatten(outputs)) == 1:
                outputs = scoring.only(outputs)
                self._check_classes(name, outputs.shape, scoring.only(targets))
                scoring.mean_loss(self.recipe.loss, outputs, scoring.only(y))
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"`{name}` must fit the model and its loss. Received: inputs "
                f"of shape {_listed(s for s in given)}: {error}"
            ) from error

    def _check_classes(self, name, shape, y):
        if "sparsecategorical" not in scoring.name_of(self.recipe.loss):
            return
        y = y[~scoring.is_ignored(y, self.recipe.loss)]
        if not y.size:
            return
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= shape[-1]:
            raise ValueError(
                f"`{name}` must hold classes from 0 to {shape[-1] - 1}, as the "
                f"model has outputs. Received: classes from {low} to {high}"
            )

    def _check_accuracy(self):
        data = self.validation_data
        if data is None:
            raise ValueError(
                "`validation_data` must be given for a target of accuracy. "
                f"Received: validation_data=None, target={self.target!r}"
            )
        x = keras.tree.map_structure(lambda a: a[:8], data[0])
        outputs = scoring.only(self.model(x, training=False))
        y = scoring.only(data[1])
        found = None
        if hasattr(outputs, "shape") and hasattr(y, "shape"):
            # The targets decide, all of them; any outputs do.
            any_outputs = np.zeros((len(y), *outputs.shape[1:]), "float32")
            found = scoring.accuracy(any_outputs, y, self.recipe.loss)
        if found is None:
            raise ValueError(
                "`validation_data` must hold classes for a target of accuracy. "
                f"Received: targets of shape {getattr(y, 'shape', None)} for "
                f"outputs of shape {tuple(getattr(outputs, 'shape', ()))}"
            )

    def learner(self, method: str) -> Learner:
        """Returns the learner."""
        return Compressing(self)

    def figures(
        self, learner: Learner | None, events: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """What the compressed model is worth."""
        return self._figures(learner.reached, learner.model)

    def beside(self, learner: Learner) -> dict[str, Any]:
        """What the dense model is worth."""
        return {"dense": self._figures(learner.dense, self.model)}

    def _figures(self, told, model):
        if self.parsed.quantity != "sparsity":
            return dict(told)
        found = summarize(model)
        return {
            **told,
            "effective_density": found.effective_density,
            "sparsity_all": found.sparsity_all,
        }

    def summary(
        self, learner: Learner, figures: dict[str, Any]
    ) -> dict[str, Any]:
        """What was asked and reached, before and after."""
        report = self.report(learner)
        return {"test_examples": report.validated, **report.to_dict()}

    def report(self, learner: Learner) -> CompressionReport:
        """Returns the `CompressionReport`."""
        validation = self.validation_data
        return CompressionReport.of(
            target=self.parsed,
            before=learner.dense,
            after={**learner.reached, "sparsity": _sparsity(learner.model)},
            widths=learner.widths(),
            front=learner.front,
            layers=learner.decided.layers if learner.decided else [],
            quantize=self.quantize,
            validated=0 if validation is None else count_of(validation),
        )

    def table(self, figures: dict[str, Any]) -> Table:
        """Title, columns and rows of the closing table."""
        rows = rows_of(figures["dense"], figures["compressed"])
        title = f"{self.target} of {self.model.name}"
        return title, ("", "dense", "compressed", "ratio"), rows


def _sparsity(model):
    return 1.0 - summarize(model).effective_density


def _input_shapes(model):
    """Shapes of the inputs, flat; `None` where they are not known."""
    inputs = getattr(model, "inputs", None)
    return [x.shape for x in inputs] if inputs else None


def _listed(shapes):
    return ", ".join(str(tuple(shape)) for shape in shapes)
