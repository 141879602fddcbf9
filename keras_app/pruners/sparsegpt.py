"""Pruning by what a layer's outputs lose, with an update: SparseGPT."""

import itertools
from typing import Unpack

import keras
from keras import ops

from keras_app import host
from keras_app import layers
from keras_app import masks as masks_lib
from keras_app.checks import check_int
from keras_app.checks import check_number
from keras_app.checks import check_sparsity
from keras_app.hints import Arrays
from keras_app.hints import Data
from keras_app.hints import Schedule
from keras_app.hints import Variables
from keras_app.pruners import reconstruction
from keras_app.pruners.arguments import PrunerArguments
from keras_app.pruners.calibrated import CalibratedPruner
from keras_app.pruners.calibrated import check_finite

# Numbers of inputs that are multiplied at a time.
_CHUNK = 1 << 23


@keras.saving.register_keras_serializable(package="keras_app")
class SparseGPTPruner(CalibratedPruner):
    """Prunes layer by layer, and moves the weights that are kept.

    Made to prune a trained network once, without training it afterwards. Each
    layer gets weights W' whose outputs on `data` are near those of W:

        minimize ||X (W - W')||^2,  H = X^T X + damping

    with the inputs i in order, U upper triangular and H^-1 = U^T U:

        prune   the smallest w_i^2 / U_ii^2, chosen for a block of inputs
        err_i   <- w_i / U_ii                where it is pruned, else 0
        w_j     <- w_j - U_ij err_i          for all j >= i

    so that what comes later makes up for what is lost. X are the inputs in
    inference mode, of the network in which all layers before are pruned
    already. What a kernel multiplies is what `WandaPruner` says.

    `int(sparsity * N)` weights of a kernel are pruned, and exactly zero. With
    `NM(n, m, axis="inputs")` n of m inputs are kept, chosen when their turn
    comes. Where moving weights does not help, which happens at high sparsity,
    they are left as they are: a layer's error is never above that of pruning
    it by magnitude, or as Wanda does.

    It computes on the host in double precision, whatever the backend: for a
    kernel of d inputs and n outputs d^3 + d^2 n operations, three arrays of d^2
    numbers at a time, and one forward pass over `data`. Kernels that are split
    over devices are gathered there, all of them.

    Args:
        schedule: Usually `OneShot`.
        data: Arrays `x` or `(x, y)`, or a re-iterable of such batches, to
            calibrate on; more examples, or positions, than a layer has inputs.
            Not part of the configuration: set `pruner.data` after
            `from_config`. Machines that train together need the same.
        block_size: Inputs whose masks are chosen together, at most; of a layer
            with less than 16 times as many inputs a sixteenth. Defaults to
            `128`.
        dampening: What is added to the diagonal of H, as a share of its mean.
            Defaults to `0.01`.
        scope: `"layer"`, because errors of two layers cannot be compared.
        structure: `None`, or `NM(n, m, axis="inputs")`.
        distribution, filters, custom_sparsity, on_miss: See `Pruner`.

    Raises:
        ValueError: `scope="global"`, or another structure. When `fit` starts:
            no data, or `filters` that name the kernel of another kind of
            layer. At an update: a layer that inference does not call, or calls
            in a compiled loop; inputs that are no numbers.

    Example:

    >>> from keras_app.schedules import OneShot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(32, 4))
    >>> pruner = SparseGPTPruner(OneShot(0.5), data=[x])
    >>> pruner.set_model(model)
    >>> pruner.prune(0.5)
    >>> pruner.report.sparsity
    0.5

    Reference: [Frantar and Alistarh, 2023](https://arxiv.org/abs/2301.00774),
    algorithm 1. Differs: the least error of three, see above; smaller blocks in
    small layers; the number of weights pruned is exact in each kernel; weights
    whose input is always zero are pruned first and not all set to zero.
    Convolutions are not in the paper.
    """

    def __init__(
        self,
        schedule: Schedule,
        data: Data | None = None,
        block_size: int = 128,
        dampening: float = 0.01,
        **kwargs: Unpack[PrunerArguments],
    ) -> None:
        super().__init__(schedule, data, **kwargs)
        self.block_size = check_int("block_size", block_size, 1)
        self.dampening = check_number(
            "dampening", dampening, lambda x: x > 0, "> 0"
        )
        if not (self.is_unstructured or _is_along_inputs(self.structure)):
            raise ValueError(
                "`structure` must be None or NM(n, m, axis='inputs') for "
                "SparseGPT, which goes through the inputs one by one. "
                f"Received: structure={self.structure!r}"
            )

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: w^2 / [H^-1]_ii}`, before anything is moved."""
        scores = {}
        for path, matrices in self.matrices(variables).items():
            costs = reconstruction.saliencies(
                matrices.of(_values(variables[path])),
                self._hessians(path, variables[path]),
                self.dampening,
            )
            scores[path] = matrices.back(costs)
        return scores

    def propose(self, sparsity: float) -> Arrays:
        """Returns the masks that `prune` would set, and changes nothing."""
        return self._solve(sparsity)[0]

    def prune(self, sparsity: float) -> None:
        """Prunes to `sparsity` and moves the other weights, now.

        Args:
            sparsity: Sparsity over the selected weights, in [0, 1).
        """
        masks, weights = self._solve(sparsity)
        for path, values in weights.items():
            self.variables[path].assign(values)
        self.adopt(masks, sparsity)

    def _solve(self, sparsity):
        """`({path: mask}, {path: new weights})`; the model stays as it is."""
        host.sync(self.model)
        sparsity = check_sparsity("sparsity", sparsity)
        variables, masks = self.variables, self.masks
        before = {
            path: ops.convert_to_numpy(variable).copy()
            for path, variable in variables.items()
        }
        targets = {
            path: target
            for [path], target in self._targets.groups(sparsity)
            if target > 0
        }
        matrices = self.matrices(variables)
        weights = {}
        try:
            for path in self._in_order(targets):
                found, mask = reconstruction.reconstructed(
                    matrices[path].of(_values(variables[path])),
                    self._hessians(path, variables[path]),
                    targets[path],
                    self._structure_of_matrices(),
                    matrices[path].of(masks[path]),
                    self.block_size,
                    self.dampening,
                )
                masks[path] = matrices[path].back(mask)
                found = matrices[path].back(found)
                weights[path] = found.astype(before[path].dtype)
                # For the layers that come after it.
                variables[path].assign(weights[path])
        finally:
            for path, values in before.items():
                variables[path].assign(values)
        return masks, weights

    def _in_order(self, paths):
        """The paths in the order in which a forward pass calls the layers."""
        called = {}
        chosen = {path: self.variables[path] for path in paths}
        if chosen:
            self.watch(
                chosen,
                lambda path, layer, inputs: called.setdefault(path),
                itertools.islice(self.data, 1),
            )
        return list(called)

    def _hessians(self, path, variable):
        """The sums of products of a kernel's inputs, of each group."""
        total = 0.0

        def note(path, layer, values):
            nonlocal total
            # Sums of half precision overflow.
            values = values.astype("float32", copy=False)
            of_inputs = layers.row_of(layer).inputs
            size = max(1, _CHUNK // of_inputs(layer, values[:1]).size)
            for start in range(0, len(values), size):
                x = of_inputs(layer, values[start : start + size])
                total = total + (x.swapaxes(1, 2) @ x).astype("float64")

        self.watch({path: variable}, note)
        check_finite(path, total)
        return total

    def _structure_of_matrices(self):
        if self.is_unstructured:
            return None
        return masks_lib.NM(self.structure.n, self.structure.m, axis=-2)


def _is_along_inputs(structure):
    return (
        isinstance(structure, masks_lib.NM)
        and structure.axis == "inputs"
        and not structure.transposable
    )


def _values(variable):
    return ops.convert_to_numpy(variable).astype("float64")
