"""Structures of weights split over four devices are pruned there."""

import functools

import keras
import numpy as np

from keras_app import masks
from keras_app import pruners
from keras_app import schedules
from keras_app import split
from keras_app.masks import mask_from_scores
from tests import splitting

# ---- arrays ---------------------------------------------------------------

SHAPES = [(8, 6), (4, 2, 10)]
AXES = [(None, "model"), ("model", "batch", None)]

STRUCTURES = [
    masks.Channel(),
    masks.Channel(axis=0),
    masks.Block((2, 2)),
    masks.Block((3, 4)),
    masks.Block((2, 3), "max"),
    masks.NM(2, 4),
    masks.NM(1, 2, axis=0),
    masks.NM(2, 3, axis=-2),
    masks.NM(3, 16),
]

# Equal ones, both zeros, and what is below the smallest normal number.
VALUES = [0.0, -0.0, 1e-40, 2e-40, -1e-40, 0.5, 1.0, 1.5, -1.0]


def agrees(structure, scores, sparsity, previous):
    """The masks of split arrays are split, and those of the host."""
    scores, before = [*scores, np.ones((6, 6), "float32")], previous
    if previous is not None:
        before = [*previous, np.ones((6, 6), bool)]
    expected = mask_from_scores(scores, sparsity, structure, previous=before)

    def parted(arrays):
        parts = [splitting.put(*pair) for pair in zip(arrays, AXES)]
        return [*parts, arrays[-1]]

    parts = parted(scores)
    with splitting.fetches(SHAPES) as fetched:
        found = mask_from_scores(
            parts,
            sparsity,
            structure,
            previous=before and parted(before),
        )
    assert fetched == [], fetched
    for part, mask, want in zip(parts, found, expected, strict=True):
        if split.is_split(part):
            assert mask.sharding.is_equivalent_to(part.sharding, mask.ndim)
        assert mask.dtype == bool
        np.testing.assert_array_equal(np.asarray(mask), want)
    assert isinstance(found[-1], np.ndarray)


def chooses_as_the_host(structure):
    def check():
        import ml_dtypes

        draw = np.random.default_rng(0)
        for dtype, sparsity, with_previous in (
            ("float32", 0.0, False),
            ("float32", 0.3, False),
            ("float32", 0.6, True),
            (ml_dtypes.bfloat16, 0.6, True),
        ):
            scores = [
                draw.choice(VALUES, shape).astype(dtype) for shape in SHAPES
            ]
            previous = None
            if with_previous:
                previous = [draw.random(shape) < 0.6 for shape in SHAPES]
            agrees(structure, scores, sparsity, previous)

    return check


def what_is_pruned_before_goes_before_what_fills_a_group():
    scores = [-np.ones(shape, "float32") * np.inf for shape in SHAPES]
    previous = [np.arange(np.prod(s)).reshape(s) % 3 > 0 for s in SHAPES]
    agrees(masks.NM(2, 4), scores, 0.5, previous)


def units_of_small_numbers_are_ranked():
    # XLA takes them for zeros on a CPU, where it converts floats.
    draw = np.random.default_rng(0)
    scores = [
        draw.integers(0, 9, shape).astype("float32") * np.float32(1e-40)
        for shape in SHAPES
    ]
    for structure in (masks.Channel(), masks.Block((2, 2), "max")):
        agrees(structure, scores, 0.5, None)


def blocks_stay_on_the_devices():
    from keras_app.masks import applied

    scores = splitting.put(np.ones((8, 8), "float32"), ("batch", "model"))
    units = applied.pool(masks.Block((2, 4)), scores)
    assert split.is_split(units)
    assert units.sharding.shard_shape((4, 2)) == (2, 1)
    # No device can hold half of five blocks: they are whole along that axis.
    scores = splitting.put(np.ones((10, 8), "float32"), ("batch", "model"))
    units = applied.pool(masks.Block((2, 4)), scores)
    assert units.sharding.shard_shape((5, 2)) == (5, 1)
    # Vectors are small.
    units = applied.pool(masks.Channel(), scores)
    assert isinstance(units, np.ndarray)


class Rows(masks.Structure):
    """One of a user's, in NumPy."""

    def pool(self, scores):
        return np.asarray(scores).sum(-1)

    def expand(self, unit_mask, shape):
        return np.broadcast_to(unit_mask[..., None], shape).copy()


def others_are_gathered():
    scores = np.arange(48, dtype="float32").reshape(8, 6)
    parts = splitting.put(scores, AXES[0])
    found = mask_from_scores(parts, 0.5, Rows())
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, mask_from_scores(scores, 0.5, Rows()))


# ---- models ---------------------------------------------------------------

LAYOUT = {
    "hidden/kernel": (None, "model"),
    "hidden/bias": ("model",),
    "second/kernel": ("model", None),
    # The last of two axes that are summed over.
    "mixed/kernel": (None, "model", None),
}


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8,))
    x = keras.layers.Dense(16, activation="tanh", name="hidden")(x)
    x = keras.layers.Dense(12, activation="tanh", name="second")(x)
    x = keras.layers.Reshape((3, 4))(x)
    x = keras.layers.EinsumDense("bij,ijk->bk", 6, name="mixed")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    return model


IN_MODELS = [
    masks.Channel(),
    masks.Block((4, 1)),
    masks.TargetBlock("litert"),
    masks.NM(2, 4, axis="inputs"),
    masks.GraphChannel(),
]


def pruned(structure):
    pruner = pruners.MagnitudePruner(
        schedules.OneShot(0.5, step=2), scope="global", structure=structure
    )
    model = network()
    with splitting.fetches(SIZES) as fetched:
        pruner.set_model(model)
    if structure == masks.GraphChannel():
        # Before, once: which channels are dead is found out on the host.
        fetched.clear()
    with splitting.fetches(SIZES) as more:
        pruner.prune(0.3)
        pruner.prune(0.6)
        pruner.report.to_dict()
        assert isinstance(pruner.is_at_target, bool)
    fetched += more
    state = [np.array(split.gathered(v.value)) for v in model.variables]
    return pruner.masks, state, fetched, pruner


SIZES = [(8, 16), (16, 12), (3, 4, 6)]


def prunes_models_as_the_host(structure):
    def check():
        whole, state, _, _ = pruned(structure)
        with splitting.distributed(LAYOUT):
            parts, split_state, fetched, pruner = pruned(structure)
            for path, variable in pruner.variables.items():
                mask, layout = pruner._masks[path], split.layout(variable)
                assert layout is None or layout.is_equivalent_to(
                    mask.sharding, mask.ndim
                )
        assert fetched == [], fetched
        assert whole.keys() == parts.keys()
        for path, mask in whole.items():
            np.testing.assert_array_equal(mask, parts[path], path)
        # Biases and means that are pruned along are among them.
        for a, b in zip(state, split_state, strict=True):
            np.testing.assert_array_equal(a, b)

    return check


def agree(masks_of):
    """Asserts that masks are those of the host, and that nothing is fetched."""
    whole, _ = masks_of()
    with splitting.distributed(LAYOUT):
        parts, fetched = masks_of()
    assert fetched == [], fetched
    for path, mask in whole.items():
        np.testing.assert_array_equal(mask, parts[path], path)


def is_dropped_and_grown_in_units(structure):
    def masks_of():
        pruner = pruners.SET(
            schedules.ConstantSparsity(0.5, 0, 8, frequency=2),
            structure=structure,
        )
        model = network()
        with splitting.fetches(SIZES) as fetched:
            splitting.fit(model, pruner)
        return pruner.masks, fetched

    return functools.partial(agree, masks_of)


def is_scored_by_inputs(structure):
    """Wanda: what comes to the host are inputs of layers, and no kernels."""

    def masks_of():
        inputs = np.random.default_rng(1).standard_normal((40, 8))
        pruner = pruners.WandaPruner(
            schedules.OneShot(0.5), data=[inputs], structure=structure
        )
        pruner.set_model(network())
        with splitting.fetches(SIZES) as fetched:
            pruner.prune(0.3)
            pruner.prune(0.6)
        return pruner.masks, [f for f in fetched if not f.startswith("(40, ")]

    return functools.partial(agree, masks_of)


def cases():
    """`{name: what a process with four devices runs}`."""
    return {
        **{repr(each): chooses_as_the_host(each) for each in STRUCTURES},
        **{
            f"model {each!r}": prunes_models_as_the_host(each)
            for each in IN_MODELS
        },
        "grown channels": is_dropped_and_grown_in_units(masks.Channel()),
        "grown n:m": is_dropped_and_grown_in_units(masks.NM(2, 4)),
        "wanda": is_scored_by_inputs(None),
        "wanda n:m": is_scored_by_inputs(masks.NM(2, 4, axis="inputs")),
        "last groups": what_is_pruned_before_goes_before_what_fills_a_group,
        "small": units_of_small_numbers_are_ranked,
        "blocks": blocks_stay_on_the_devices,
        "others": others_are_gathered,
    }


test_on_four_devices = splitting.tests_of(__name__, cases())
