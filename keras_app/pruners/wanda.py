"""Pruning by weights and the inputs they see: Wanda."""

import dataclasses

import keras
import numpy as np

from keras_app import layers
from keras_app import split
from keras_app.hints import Arrays
from keras_app.hints import Variables
from keras_app.pruners.calibrated import CalibratedPruner
from keras_app.pruners.calibrated import check_finite
from keras_app.pruners.calibrated import Matrices
from keras_app.pruners.calibrated import ranks_within_outputs


@keras.saving.register_keras_serializable(package="keras_app")
class WandaPruner(CalibratedPruner):
    """Prunes by weights and activations: score = `|w|` times its input's norm.

    Made to prune a trained network once, without training it afterwards. It
    costs one forward pass over `data` at each update, and no gradient.

        S_ij = |W_ij| ||X_i||_2

    X_i holds all values that input i takes over `data`, in inference mode: of a
    `Dense` layer over all positions; of an `EinsumDense` layer, and so within
    attention, over the axes that its kernel does not have; of a convolution
    over all patches. A layer that is called several times sums over its calls.

    Scores are compared within each output: every output neuron or channel loses
    the same number of its inputs, to within one. With a `structure` its units
    are compared instead, by the scores themselves: `NM(2, 4,
    axis="inputs")` is the 2:4 of the paper, along the inputs.

    By default the kernels of all other layers are left out, with a reason in
    `report.skipped`.

    Args:
        schedule: Usually `OneShot`.
        data: Arrays `x` or `(x, y)`, or a re-iterable of such batches, to
            calibrate on; a few hundred examples will do. Not part of the
            configuration: set `pruner.data` after `from_config`. Machines that
            train together need the same.
        scope: `"layer"`, because scores of two layers cannot be compared.
        structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`.

    Raises:
        ValueError: `scope="global"`. When `fit` starts: no data, or `filters`
            that name the kernel of another kind of layer. At an update: a layer
            that inference does not call, or calls in a compiled loop; inputs
            that are no numbers.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> pruner = WandaPruner(OneShot(0.5), data=[np.ones((8, 4))])
    >>> pruner.set_model(model)
    >>> pruner.prune(0.5)
    >>> [mask] = pruner.masks.values()
    >>> print(mask.sum(axis=0))
    [2 2 2 2 2]

    Reference: [Sun et al., 2023](https://arxiv.org/abs/2306.11695), eq. 1.
    Differs: all layers are scored on the activations of the network before the
    update, where the authors prune one transformer block after the other and
    calibrate each after those already pruned. Convolutions are not in the
    paper.
    """

    takes_split = True

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: |w| ||x||}`, or its rank within the output."""
        squares = self._squared_inputs(variables)
        masks = self._masks
        scores = {}
        for path, matrices in self.matrices(variables).items():
            rule = _Rule(matrices, self.is_unstructured)
            w = self.read(variables[path])
            score = split.method_for(split.layout(w), rule, "score")
            scores[path] = score(w, np.sqrt(squares[path]), masks[path])
        return scores

    def _squared_inputs(self, variables):
        """`{path: sums of squares (groups, inputs, 1)}`."""
        squares = dict.fromkeys(variables, 0.0)

        def note(path, layer, inputs):
            # Over the examples first, because that is cheaper.
            of_inputs = np.square(inputs, dtype=np.float64)
            of_inputs = of_inputs.sum(0, keepdims=True)
            more = layers.row_of(layer).inputs(layer, of_inputs).sum(1)
            squares[path] = squares[path] + more[..., None]

        self.watch(variables, note)
        for path, sums in squares.items():
            check_finite(path, sums)
        return squares


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The scores of one kernel: on the host, or compiled where it lies."""

    matrices: Matrices
    within_outputs: bool

    def score(self, w, norms, kept):
        w = split.widened(w).astype("float64")
        found = abs(self.matrices.of(w)) * norms
        if self.within_outputs:
            # Below weights that are kept although their input is zero.
            where = split.numpy_of(found).where
            found = where(self.matrices.of(kept), found, -1.0)
            found = ranks_within_outputs(found)
        return self.matrices.back(found)
