"""Scores and masks of `models.network`, restated with NumPy alone.

Gradients are differences of a loss computed in double precision, and masks are
one sort of everything.
"""

import functools

import numpy as np

from tests import models
from tests.helpers import weights

_EPSILON = 1e-3  # of Keras's batch normalization


def _patches(x):
    """What the kernel of the convolution lies over at each position."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    seen = np.moveaxis(seen.astype("float64"), 3, -1)
    return seen.reshape(*seen.shape[:3], -1)


def _forward(patches, conv, dense, statistics):
    """Logits of the network; biases and shifts are zero as they start."""
    z = patches @ conv.reshape(-1, conv.shape[-1])
    mean, variance = 0.0, 1.0  # as the moving ones start
    if statistics == "of the batch":
        mean, variance = z.mean((0, 1, 2)), z.var((0, 1, 2))
    hidden = np.maximum((z - mean) / np.sqrt(variance + _EPSILON), 0)
    hidden = hidden.reshape(len(patches), -1)
    return hidden, hidden @ dense


def _cross_entropy(patches, y, conv, dense):
    _, logits = _forward(patches, conv, dense, "of the batch")
    largest = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(-1)) + largest[:, 0]
    return np.mean(log_sum - logits[np.arange(len(y)), y])


def _gradients(function, *arrays, step=1e-6):
    """Of a function of several arrays: two calls for each entry."""
    found = []
    for array in arrays:
        gradient = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            before = array[index]
            array[index] = before + step
            above = function(*arrays)
            array[index] = before - step
            gradient[index] = (above - function(*arrays)) / (2 * step)
            array[index] = before
        found.append(gradient)
    return found


def _kernels():
    found = weights(models.network())
    return [found[path].astype("float64") for path in models.KERNELS]


def _magnitude():
    return [np.abs(w) for w in _kernels()]


def _random():
    generator = np.random.default_rng(0)
    return [generator.standard_normal(w.shape) for w in _kernels()]


def _first_masks():
    """Of seed 0, at step 0: a stream for each weight."""
    return [
        np.random.default_rng([0, 0, position, 0]).random(w.shape)
        for position, w in enumerate(_kernels())
    ]


@functools.cache
def _saliency():
    """|g w|, the gradients summed over the batches."""
    batches = [(_patches(x), y) for x, y in models.batches()]

    def loss(conv, dense):
        return sum(_cross_entropy(*batch, conv, dense) for batch in batches)

    kernels = _kernels()
    return [np.abs(g * w) for g, w in zip(_gradients(loss, *kernels), kernels)]


def _synflow():
    """|R w|: an image of ones through the network of absolute values."""
    ones = _patches(np.ones((1, 6, 6, 2)))

    def output(conv, dense):
        return _forward(ones, conv, dense, "as they start")[1].sum()

    kernels = [np.abs(w) for w in _kernels()]
    return [g * w for g, w in zip(_gradients(output, *kernels), kernels)]


def _wanda():
    """The rank of |w| ||x|| among the inputs of its output."""
    conv, dense = _kernels()
    patches = _patches(np.concatenate([x for x, _ in models.batches()]))
    hidden, _ = _forward(patches, conv, dense, "as they start")
    squares = (patches**2).sum((0, 1, 2)).reshape(3, 3, 2, 1)
    inputs = [squares, (hidden**2).sum(0)[:, None]]
    scores = [np.abs(w) * np.sqrt(s) for w, s in zip((conv, dense), inputs)]
    return [_ranks(s.reshape(-1, s.shape[-1])).reshape(s.shape) for s in scores]


def _ranks(columns):
    return np.argsort(np.argsort(columns, 0, kind="stable"), 0)


# {row of the catalogue: function that scores both kernels at the first update}
SCORES = {
    **dict.fromkeys(
        ["magnitude", "acdc", "ste", "top_kast", "movement"], _magnitude
    ),
    "random": _random,
    **dict.fromkeys(["set", "rigl", "rigl_by_steps", "granet"], _first_masks),
    **dict.fromkeys(["snip", "taylor", "app"], _saliency),
    "synflow": _synflow,
    "wanda": _wanda,
}


def masks(name, sparsity, together):
    """`{path: bool array}`: of all scores, or of each kernel, the least go."""
    scores = SCORES[name]()
    groups = [scores] if together else [[s] for s in scores]
    kept = [mask for group in groups for mask in _keep(group, sparsity)]
    return dict(zip(models.KERNELS, kept))


def _keep(scores, sparsity):
    flat = np.concatenate([s.ravel() for s in scores])
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[: int(sparsity * flat.size)]] = False
    ends = np.cumsum([s.size for s in scores])[:-1]
    return [m.reshape(s.shape) for m, s in zip(np.split(keep, ends), scores)]
