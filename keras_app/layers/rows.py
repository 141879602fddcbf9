"""What a row of the catalogue says about a layer type."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_app.layers import products


@dataclasses.dataclass(frozen=True)
class Weight:
    """Where a weight of a layer has its channels.

    Attributes:
        name: The attribute of the layer that it is.
        outputs: The axis of the channels that the layer gives, or `None`.
        inputs: The axis of the channels that the layer reads, or `None`.
        follows: Whether structures that prune channels prune it along, as they
            do with biases; statistics only have to be cut.
    """

    name: str
    outputs: int | None = -1
    inputs: int | None = None
    follows: bool = True

    @property
    def makes(self) -> bool:
        """Whether it makes channels, rather than change what others made."""
        return False


@dataclasses.dataclass(frozen=True)
class Kernel(Weight):
    """The matrix, or matrices, that a layer multiplies its inputs by.

    Axes in front of the last two are positions in space, if nothing else is
    said.

    Attributes:
        outputs: See `Weight`; `None` for a kernel that keeps channels apart.
        sums: `(layer, rank) -> axes` that are summed over to make one output.
            Defaults to `None`: all but `outputs`.
        contracted: `(layer, rank) -> axes` that the product with the inputs of
            a position sums over. Defaults to `None`: those of `sums`.
        shared: `(layer, rank) -> axes` that inputs and outputs have too: each
            place on them has a product of its own. Defaults to `None`: none.
        spreads: Whether an input is multiplied first and spread over several
            outputs then, as in transposed convolutions.
        left_out: What it is called where it is not pruned unless a filter
            names it. Defaults to `None`: it is pruned.
    """

    inputs: int | None = -2
    sums: Callable | None = None
    contracted: Callable | None = None
    shared: Callable | None = None
    spreads: bool = False
    left_out: str | None = None

    @property
    def makes(self) -> bool:
        """Whether it makes channels, rather than change what others made."""
        return self.outputs is not None

    def sum_axes(
        self, layer: keras.layers.Layer | None, rank: int
    ) -> tuple[int, ...]:
        """The axes that are summed over to make one output."""
        if self.sums is not None:
            return self.sums(layer, rank)
        return tuple(i for i in range(rank) if i != self.outputs % rank)

    def contracted_axes(
        self, layer: keras.layers.Layer | None, rank: int
    ) -> tuple[int, ...] | None:
        """The axes that the product at one position sums over."""
        if self.spreads:
            return (self.inputs % rank,)
        if self.contracted is not None:
            return self.contracted(layer, rank)
        return self.sum_axes(layer, rank)

    def shared_axes(
        self, layer: keras.layers.Layer | None, rank: int
    ) -> tuple[int, ...]:
        """The axes on which each place has a product of its own."""
        return () if self.shared is None else self.shared(layer, rank)


BIAS = Weight("bias")


@dataclasses.dataclass(frozen=True)
class LayerType:
    """A row: all that is known of a layer type.

    What a row leaves out is as in an unknown layer: its channels stay, it is
    not cut, and Wanda and SparseGPT leave it to other pruners.

    Attributes:
        weights: A `Weight` for each weight that has channels, a `Kernel` for
            each that the inputs are multiplied by.
        channels: How channels pass through, a function of
            `keras_app.layers.passing`; or the reason why all must stay.
        several: Whether it is called on a list of inputs.
        size: How the smaller layer differs: the argument of the constructor
            that counts its outputs, or a function `(layer, how many are kept,
            of how many) -> {argument: value}`. Defaults to `None`: not at all.
        heads: Of attention, the attribute that counts its heads.
        positions: `(layer, shape of the inputs, shape of the outputs) -> how
            often a kernel is applied for each sample, as a shape`, or `None`
            where it is not known. FLOPs follow. Defaults to once for each
            position of the output.
        inside: `(layer, args, kwargs, output) -> [(layer inside, *what it is
            called with, how often, as a shape)]`, of a layer that calls
            others. Without what it is called with, its kernels are applied
            so often.
        inputs: `(layer, values of its inputs) -> array (groups, positions,
            inputs)` of what the only kernel multiplies: at each position, the
            inputs in the order of the axes that it sums over; in several
            groups where parts of the kernel have inputs of their own. The
            values may be squares, which add up over positions. Wanda and
            SparseGPT prune such kernels.
    """

    weights: tuple[Weight, ...] = ()
    channels: Callable | str = "{} is not known to be cuttable"
    several: bool = False
    size: str | Callable | None = None
    heads: str | None = None
    positions: Callable = products.at_outputs
    inside: Callable | None = None
    inputs: Callable | None = None

    @property
    def kernels(self) -> list["Kernel"]:
        """The kernels among the weights."""
        return [each for each in self.weights if isinstance(each, Kernel)]

    @property
    def makes(self) -> bool:
        """Whether the layer makes channels of its own."""
        return any(weight.makes for weight in self.weights)

    def resized(
        self, layer: keras.layers.Layer, kept: int, of: int
    ) -> dict[str, Any]:
        """The arguments of the constructor of a layer with fewer outputs."""
        if callable(self.size):
            return self.size(layer, kept, of)
        return {self.size: kept} if self.size else {}
