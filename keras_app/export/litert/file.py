"""What a LiteRT file holds: its sparse weights, decoded, and their repair.

Nothing here needs TensorFlow; the schema comes with `ai_edge_litert`. A sparse
weight is stored as the converter writes it, a case of what
[TACO](https://doi.org/10.1145/3133901) describes: by rows, with the positions
of what is not empty along the last axis, which are single entries or blocks of
them. Behind a weight that a kernel cannot read
so, the converter puts a `DENSIFY` operation, which expands it when the file is
loaded.
"""

import dataclasses
import itertools
import re

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_IDENTIFIER = b"TFL3"

_DTYPES = {
    getattr(schema.TensorType, name.upper()): np.dtype(name).newbyteorder("<")
    for name in ("float32", "float16", "int8", "int32", "int64", "uint8")
}
# Of one entry; resources and strings are handles.
TYPE_BYTES = {
    number: int(bits[0]) / 8 if (bits := re.search(r"\d+", name)) else 0
    for name, number in vars(schema.TensorType).items()
    if not name.startswith("_")
} | {schema.TensorType.BOOL: 1}
_NAMES = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}
_CSR = schema.DimensionType.SPARSE_CSR
# They hand a weight on, changed in form only.
_PASSING = ("DENSIFY", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant of the file that an operation reads.

    Attributes:
        graph, index: Where it is.
        name: Its name in the file.
        values: Its entries, decoded, in LiteRT's layout.
        sparse: Whether it is stored sparse.
        block: Length of its blocks; 0 where single entries are stored.
        readers: Names of the operations that read it, such as `"CONV_2D"`.
    """

    graph: int
    index: int
    name: str
    values: np.ndarray
    sparse: bool
    block: int
    readers: tuple

    @property
    def zeros(self):
        """Share of entries that are zero, in [0, 1]."""
        return 1.0 - np.count_nonzero(self.values) / max(1, self.values.size)


class LiteRTFile:
    """A parsed LiteRT file.

    Args:
        data: Its bytes.
    """

    def __init__(self, data):
        self.model = schema.ModelT.InitFromPackedBuf(bytes(data), 0)

    def to_bytes(self):
        """Returns the file as bytes."""
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    # ---- reading ---------------------------------------------------------

    def operations(self, graph=0):
        """Returns `[(name, operator)]` of a graph, in the order they run."""
        names = list(map(_name_of, self.model.operatorCodes))
        return [
            (names[operator.opcodeIndex], operator)
            for operator in self.model.subgraphs[graph].operators
        ]

    def operation_names(self):
        """Returns the names of all operations, over all graphs."""
        graphs = range(len(self.model.subgraphs))
        return [name for g in graphs for name, _ in self.operations(g)]

    def weights(self):
        """Returns a `Weight` for every constant of at least two axes."""
        return [
            Weight(
                graph,
                index,
                tensor.name.decode(),
                self._values(tensor),
                tensor.sparsity is not None,
                _block_of(tensor),
                readers,
            )
            for graph, subgraph in enumerate(self.model.subgraphs)
            for index, tensor in enumerate(subgraph.tensors)
            if self._is_constant(tensor)
            and len(tensor.shape) >= 2
            and (readers := tuple(self._readers(graph, index)))
        ]

    def constant(self, index, graph=0):
        """Returns the value of a tensor, or `None` if it is computed."""
        tensor = self.model.subgraphs[graph].tensors[index]
        return self._values(tensor) if self._is_constant(tensor) else None

    def is_constant(self, index, graph=0):
        """Whether a tensor is stored in the file; -1 is no tensor."""
        if index < 0:
            return False
        buffer = self.model.subgraphs[graph].tensors[index].buffer
        data = self.model.buffers[buffer].data
        return data is not None and len(data) > 0

    def stored_bytes(self, weight):
        """Returns what a weight takes in the file, with what unpacks it.

        The tensor behind a `DENSIFY` is left out: it stays when that goes.
        """
        tensor = self._tensor(weight)
        size = len(self.model.buffers[tensor.buffer].data)
        if tensor.sparsity is not None:
            size += _packed_bytes(tensor.sparsity)
        return size + sum(map(_packed_bytes, self._densifies(weight)))

    def _is_constant(self, tensor):
        data = self.model.buffers[tensor.buffer].data
        return (
            data is not None
            and len(data)
            and tensor.shape is not None
            and tensor.type in _DTYPES
        )

    def _readers(self, graph, index):
        for name, operator in self.operations(graph):
            if index not in operator.inputs:
                continue
            if name in _PASSING:
                yield from self._readers(graph, operator.outputs[0])
            else:
                yield name

    def _values(self, tensor):
        data = np.frombuffer(
            bytes(self.model.buffers[tensor.buffer].data),
            _DTYPES[tensor.type],
        )
        if tensor.sparsity is None:
            return data.reshape(tensor.shape)
        return _expand(tensor, data)

    # ---- mending ---------------------------------------------------------

    def store_dense(self, weight):
        """Stores a sparse weight dense, and drops its `DENSIFY`."""
        tensor = self._tensor(weight)
        tensor.sparsity = None
        self._set_data(tensor, weight.values)
        self._drop_densify(weight)

    def store_unblocked(self, weight):
        """Stores a blocked weight by single entries, before a `DENSIFY`."""
        tensor = self._tensor(weight)
        rows = weight.values.reshape(-1, weight.values.shape[-1])
        kept = rows != 0
        tensor.sparsity = _by_rows(weight.values.shape, kept)
        self._set_data(tensor, rows[kept])
        self._drop_densify(weight)
        self._add_densify(weight)

    def _tensor(self, weight):
        return self.model.subgraphs[weight.graph].tensors[weight.index]

    def _set_data(self, tensor, values):
        # The old buffer may serve another tensor.
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(
            np.ascontiguousarray(values).tobytes(), np.uint8
        )
        self.model.buffers.append(buffer)
        old, tensor.buffer = tensor.buffer, len(self.model.buffers) - 1
        used = {
            t.buffer for graph in self.model.subgraphs for t in graph.tensors
        }
        if old not in used:
            self.model.buffers[old].data = None

    def _densifies(self, weight):
        """The operations that put a weight's zeros back."""
        return [
            operator
            for name, operator in self.operations(weight.graph)
            if name == "DENSIFY" and operator.inputs[0] == weight.index
        ]

    def _drop_densify(self, weight):
        graph = self.model.subgraphs[weight.graph]
        for operator in self._densifies(weight):
            graph.operators.remove(operator)
            self._rewire(graph, operator.outputs[0], weight.index)

    def _add_densify(self, weight):
        graph = self.model.subgraphs[weight.graph]
        tensor = graph.tensors[weight.index]
        expanded = schema.TensorT()
        expanded.name = tensor.name + b"/dense"
        expanded.shape, expanded.type = tensor.shape, tensor.type
        expanded.quantization, expanded.hasRank = tensor.quantization, True
        expanded.buffer = 0  # by convention the empty one
        graph.tensors.append(expanded)
        self._rewire(graph, weight.index, len(graph.tensors) - 1)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code("DENSIFY")
        operator.inputs = np.array([weight.index], np.int32)
        operator.outputs = np.array([len(graph.tensors) - 1], np.int32)
        graph.operators.insert(0, operator)

    def _code(self, name):
        codes = self.model.operatorCodes
        names = list(map(_name_of, codes))
        if name not in names:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
            codes.append(code)
            names.append(name)
        return names.index(name)

    @staticmethod
    def _rewire(graph, old, new):
        for operator in graph.operators:
            inputs = np.array(operator.inputs)
            inputs[inputs == old] = new
            operator.inputs = inputs


def _name_of(code):
    # Old files use one field, new ones the other.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _NAMES.get(number, str(number))
    return code.customCode.decode() if name == "CUSTOM" else name


# ---- the encoding ----------------------------------------------------------


def _block_of(tensor):
    """The length of a tensor's blocks; 0 without."""
    sparsity = tensor.sparsity
    if sparsity is None or not len(_array(sparsity.blockMap)):
        return 0
    return int(sparsity.dimMetadata[-1].denseSize)


def _expand(tensor, data):
    """The dense array of a sparse tensor, whose stored entries are `data`."""
    sparsity = tensor.sparsity
    last, block = len(tensor.shape) - 1, _block_of(tensor)
    levels = sparsity.dimMetadata
    order = list(_array(sparsity.traversalOrder))
    by_rows = [level.format for level in levels].index(_CSR) == last
    blocked = list(_array(sparsity.blockMap)) == ([last] if block else [])
    if not (by_rows and blocked and order == sorted(order)):
        raise ValueError(
            f"{tensor.name.decode()} is stored sparse in another way than by "
            "rows, which cannot be read. Nothing was written."
        )
    ends = _array(levels[last].arraySegments.values).astype(int)
    columns = _array(levels[last].arrayIndices.values)
    rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    width, block = int(tensor.shape[-1]), block or 1
    # The last block may reach beyond the edge.
    values = np.zeros((len(ends) - 1, -(-width // block), block), data.dtype)
    values[rows, columns] = data.reshape(-1, block)
    values = values.reshape(len(ends) - 1, -1)[:, :width]
    return values.reshape(tensor.shape)


def _by_rows(shape, kept):
    """The description of a tensor whose rows hold the entries `kept`."""
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.arange(len(shape), dtype=np.int32)
    sparsity.blockMap = np.array([], np.int32)
    sparsity.dimMetadata = [schema.DimensionMetadataT() for _ in shape]
    *dense, last = sparsity.dimMetadata
    for level, size in zip(dense, shape):
        level.format, level.denseSize = schema.DimensionType.DENSE, int(size)
    last.format = _CSR
    ends = itertools.accumulate(kept.sum(axis=1), initial=0)
    last.arraySegmentsType, last.arraySegments = _index_vector(list(ends))
    last.arrayIndicesType, last.arrayIndices = _index_vector(
        np.nonzero(kept)[1]
    )
    return sparsity


def _index_vector(values):
    """The narrowest vector that holds them, as its type and itself."""
    values = np.asarray(values)
    fitting = (
        dtype
        for dtype in (np.uint8, np.uint16, np.int32)
        if values.max(initial=0) <= np.iinfo(dtype).max
    )
    dtype = next(fitting)
    name = f"{dtype.__name__.capitalize()}Vector"
    vector = getattr(schema, f"{name}T")()
    vector.values = values.astype(dtype)
    return getattr(schema.SparseIndexVector, name), vector


def _packed_bytes(part):
    """What a part of the model takes in a file that has others of its kind."""
    builder = flatbuffers.Builder()
    part.Pack(builder)
    first = builder.Offset()
    part.Pack(builder)
    return builder.Offset() - first


def _array(values):
    """A vector of the file; an absent one is empty."""
    return np.asarray([] if values is None else values)
