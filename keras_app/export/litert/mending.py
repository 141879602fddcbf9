"""The sparse weights of the converter's files, mended where they are wrong."""

import collections
import dataclasses
import operator

import numpy as np

from keras_app.export.litert.file import LiteRTFile

# Below this share of zeros the converter leaves a tensor dense.
FEW_ZEROS = 0.3
_BLOCK_INT8 = 16
_CONVOLUTIONS = {"CONV_2D", "TRANSPOSE_CONV", "DEPTHWISE_CONV_2D"}
_NEVER_ENCODED = {"CONV_3D", "CONV_3D_TRANSPOSE", "GATHER", "EMBEDDING_LOOKUP"}
# Resources would mean that weights stayed outside of the graph.
_RESOURCES = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}


class Mended:
    """The converter's sparse file, without what it or the runtime gets wrong.

    Args:
        content: The sparse file, or `None`.
        dense: The dense file.
        precision: What weights are stored in.
        keep_all: Whether to store sparse even what grows by it.

    Attributes:
        content: The file to write; the dense one if nothing is stored sparse.
        sparse: The `Weight`s that are stored sparse in it.
        dense: `{name: reason}` of weights with many zeros that are not.
        repairs: What was changed, in sentences.
    """

    def __init__(self, content, dense, precision, keep_all):
        self.content, self.sparse = dense, []
        self.dense, self.repairs = {}, []
        if content is None:
            return
        file = LiteRTFile(content)
        self._true = _encoded_wrongly(file, LiteRTFile(dense))
        for weight in file.weights():
            self._mend(file, weight, precision, keep_all)
        sparse = [w for w in file.weights() if w.sparse]
        if not sparse:
            return
        content = file.to_bytes()
        if len(content) >= len(dense) and not keep_all:
            reason = (
                f"the file would have {len(content):,} bytes with it sparse, "
                f"and has {len(dense):,}"
            )
            self.dense.update((weight.name, reason) for weight in sparse)
            return
        self.content, self.sparse = content, sparse

    def _mend(self, file, weight, precision, keep_all):
        name = weight.name
        if not weight.sparse:
            if weight.zeros > FEW_ZEROS:
                self.dense[name] = _why_dense(weight)
            return
        true = self._true.get((weight.graph, weight.index))
        if true is None:
            fault = _fault(weight, precision)
            unblocked = fault and precision == "float16"
        else:
            weight = dataclasses.replace(weight, values=true)
            fault = "the converter's sparse form holds other numbers"
            unblocked = False
        if unblocked:
            file.store_unblocked(weight)
            self.repairs.append(f"{name}: {fault}; blocks dissolved")
        elif fault:
            file.store_dense(weight)
            self.repairs.append(f"{name}: {fault}; stored dense")
            self.dense[name] = fault
            return
        if not keep_all and file.stored_bytes(weight) > weight.values.nbytes:
            file.store_dense(weight)
            self.dense[name] = "its zeros are too few to save bytes"


def _encoded_wrongly(file, dense):
    """`{(graph, index): values}` of weights that hold other numbers.

    Seen where blocks do not divide the inputs. Names do not help, because the
    converter renames what it joins.
    """
    known = set(map(_content, file.weights()))
    true = set(map(_content, dense.weights()))
    lost = [w.values for w in dense.weights() if _content(w) not in known]
    found = {}
    for weight in file.weights():
        alike = [v for v in lost if v.shape == weight.values.shape]
        # Of several nobody can tell; then the last check refuses the file.
        if _content(weight) not in true and len(alike) == 1:
            found[weight.graph, weight.index] = alike[0]
    return found


def _fault(weight, precision):
    """What the runtime would do wrong with a sparse weight; or `None`."""
    readers = set(weight.readers)
    if readers <= _CONVOLUTIONS or weight.values.dtype == np.float32:
        return None
    if precision == "float16":
        return "blocks of halves give NaN" if weight.block else None
    if weight.block == _BLOCK_INT8 and readers == {"FULLY_CONNECTED"}:
        return None
    return f"{'/'.join(sorted(readers))} reads int8 in blocks of 16 only"


def _why_dense(weight):
    never = _NEVER_ENCODED & set(weight.readers)
    if never:
        return f"the converter stores no {never.pop()} sparse"
    return "the converter left it dense"


# ---- the checks ------------------------------------------------------------


def check_structure(content, dense, nonzeros):
    """Raises unless the file holds the weights and the zeros of the model."""
    file = LiteRTFile(content)
    if _contents(file) != _contents(LiteRTFile(dense)):
        raise ValueError(
            "The sparse file does not hold the weights of the dense one. "
            "Nothing was written."
        )
    resources = _RESOURCES.intersection(file.operation_names())
    if resources:
        raise ValueError(
            "The model must not assign variables when it is called: the file "
            f"would keep them outside of its graph ({', '.join(resources)}). "
            "Leave out the layer that does, such as one that draws random "
            "numbers. Nothing was written."
        )
    weights = [weight.values for weight in file.weights()]
    stored = _by_size((x.size, np.count_nonzero(x)) for x in weights)
    ours = _by_size(nonzeros)
    for size, found in stored.items():
        expected = ours.get(size, [])
        # Constants that are no weights, and weights that were cut in pieces,
        # cannot be told apart by their size.
        if len(found) == len(expected) and any(
            map(operator.gt, found, expected)
        ):
            raise ValueError(
                f"Zeros were lost: of weights with {size} entries the file "
                f"holds {found} non-zeros, the model {expected}. "
                "Nothing was written."
            )
    payload = sum(np.count_nonzero(x) * x.itemsize for x in weights)
    if len(content) < payload:
        raise ValueError(
            f"The file has {len(content)} bytes, less than its weights. "
            "Nothing was written."
        )


def _by_size(nonzeros):
    """`{size: sorted non-zeros}` of `(size, non-zeros)` pairs."""
    found = collections.defaultdict(list)
    for size, count in sorted(nonzeros):
        found[size].append(count)
    return found


def _contents(file):
    """Shapes and bytes of all weights."""
    return sorted(map(_content, file.weights()))


def _content(weight):
    # Adding 0 makes one zero of both.
    values = weight.values + weight.values.dtype.type(0)
    return values.shape, values.tobytes()
