"""Tests of data in three parts: what is in each, and how it was changed."""

import inspect
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_app.experiments import data

pytestmark = pytest.mark.backend_free


def arrays(count=100, shape=(6, 6, 1), num_classes=4):
    """Images that differ from each other and have no zeros."""
    values = np.random.default_rng(7).integers(1, 256, (count, *shape))
    return values.astype("uint8"), np.arange(count) % num_classes


def numbered(count=100):
    """Features that say their position."""
    return np.arange(count, dtype="float32")[:, None], np.arange(count) % 4


def batches(dataset):
    return list(dataset.as_numpy_iterator())


def whole(dataset):
    return tuple(np.concatenate(part) for part in zip(*batches(dataset)))


def assert_equal_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        for left, right in zip(a, b):
            np.testing.assert_array_equal(left, right)


# Holdout.


def test_parts_have_the_stated_sizes_and_share_no_sample():
    parts = data.Holdout(numbered(), 0.15, batch_size=20)
    assert len(parts.train_ids) == 85 and len(parts.validation_ids) == 15
    assert parts.train_ids.dtype == parts.validation_ids.dtype == np.int64
    together = [*parts.train_ids, *parts.validation_ids]
    assert sorted(together) == list(range(100))
    assert parts.steps_per_epoch == 5
    assert parts.image_shape == (1,) and parts.num_classes == 4
    assert parts.name is None and parts.data_dir is None


def test_batches_hold_the_samples_of_their_ids():
    parts = data.Holdout(numbered(), 0.15, batch_size=20)
    x, y = whole(parts.epochs(0, 1))
    assert sorted(x[:, 0]) == sorted(parts.train_ids)
    np.testing.assert_array_equal(y, x[:, 0] % 4)
    x, y = whole(parts.validation)
    np.testing.assert_array_equal(x[:, 0], parts.validation_ids)
    np.testing.assert_array_equal(y, parts.validation_ids % 4)
    sizes = [len(y) for _, y in batches(parts.epochs(0, 1))]
    assert sizes == [20, 20, 20, 20, 5]
    assert len(parts.epochs(2, 4)) == 10 and len(parts.validation) == 1


def test_mixing_follows_the_seed_and_none_keeps_the_stored_order():
    mixed = data.Holdout(numbered(), 0.1, seed=5)
    expected = np.random.default_rng(5).permutation(100)
    np.testing.assert_array_equal(mixed.train_ids, expected[:90])
    np.testing.assert_array_equal(mixed.validation_ids, expected[90:])
    stored = data.Holdout(numbered(), 0.1, shuffle=False)
    assert stored.train_ids.tolist() == list(range(90))
    x, _ = whole(stored.epochs(0, 1))
    assert x[:, 0].tolist() != list(range(90))


def test_fraction_is_rounded_to_whole_samples():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert len(data.Holdout(numbered(), 0.29).validation_ids) == 29


@pytest.mark.parametrize("kind", [data.Holdout, data.Restoration])
def test_epochs_continue_where_a_run_stopped(kind):
    options = {"augment": True} if kind is data.Holdout else {}
    parts = kind(arrays(), batch_size=16, **options)
    every = batches(parts.epochs(0, 4))
    tail = batches(parts.epochs(2, 4))
    assert_equal_batches(tail, every[2 * parts.steps_per_epoch :])
    again = kind(arrays(), batch_size=16, **options)
    keras.utils.set_random_seed(99)
    assert_equal_batches(batches(again.epochs(2, 4)), tail)


def test_order_differs_between_epochs_and_seeds():
    orders = [
        whole(data.Holdout(numbered(), seed=seed).epochs(e, e + 1))[0].tolist()
        for seed, e in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_augmentation_is_off_by_default_and_on_training_images_only():
    images, labels = arrays()
    known = {(image / np.float32(255)).tobytes() for image in images}

    def share_of_stored(dataset):
        return np.mean([x.tobytes() in known for x in whole(dataset)[0]])

    plain = data.Holdout((images, labels), 0.2)
    assert share_of_stored(plain.epochs(0, 1)) == 1
    assert share_of_stored(plain.validation) == 1
    augmented = data.Holdout(
        (images, labels), 0.2, test=(images, labels), augment=True, padding=2
    )
    assert share_of_stored(augmented.epochs(0, 1)) < 0.2
    assert share_of_stored(augmented.validation) == 1
    np.testing.assert_array_equal(augmented.test[0], images / np.float32(255))


def test_no_padding_and_no_flip_change_nothing():
    images, labels = arrays(20)
    parts = data.Holdout(
        (images, labels), augment=True, padding=0, flip=False, batch_size=20
    )
    x, _ = whole(parts.epochs(0, 1))
    expected = images[parts.train_ids] / np.float32(255)
    assert sorted(i.tobytes() for i in x) == sorted(
        i.tobytes() for i in expected
    )


def test_test_arrays_come_in_their_order_as_float32_in_unit_range():
    images, labels = arrays(30)
    x, y = data.Holdout(arrays(), test=(images, labels), batch_size=7).test
    assert x.dtype == np.float32 and y.dtype == np.int32
    np.testing.assert_array_equal(x, images / np.float32(255))
    np.testing.assert_array_equal(y, labels)


def test_named_data_come_with_their_test_split():
    parts = data.Holdout("fashion_mnist_mini")
    assert parts.name == "fashion_mnist_mini"
    assert parts.num_classes == 10 and parts.image_shape == (28, 28, 1)
    assert len(parts.train_ids) == 5700 and len(parts.validation_ids) == 300
    x, y = parts.test
    images, labels = data.load_arrays("fashion_mnist_mini", "test")
    np.testing.assert_array_equal(x, images / np.float32(255))
    np.testing.assert_array_equal(y, labels)
    assert parts.test[0] is x


def test_split_and_data_dir_name_the_source(tmp_path):
    parts = data.Holdout("fashion_mnist_mini", split="train[:200]")
    assert len(parts.train_ids) == 190
    with pytest.raises(OSError, match=str(tmp_path)):
        data.Holdout("fashion_mnist_mini", data_dir=tmp_path)


# Restoration.


def blurred_by_hand(image, sigma):
    """A 9x9 Gaussian, reflected at the border, pixel by pixel."""
    offsets = range(-4, 5)
    weights = np.array(
        [
            [np.exp(-(i * i + j * j) / (2 * sigma**2)) for j in offsets]
            for i in offsets
        ]
    )
    weights /= weights.sum()
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)], mode="reflect")
    result = np.zeros(image.shape)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            patch = padded[row : row + 9, column : column + 9]
            result[row, column] = np.einsum("ij,ijc->c", weights, patch)
    return result


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_blur_is_a_9x9_gaussian_with_reflected_borders(sigma):
    images, labels = arrays(4, (11, 7, 2))
    parts = data.Restoration(
        arrays(4, (11, 7, 2)),
        noise=0.0,
        blur_sigma=sigma,
        test=(images, labels),
        validation_fraction=0.25,
    )
    degraded, clean = parts.test
    np.testing.assert_array_equal(clean, images / np.float32(255))
    expected = [blurred_by_hand(image / 255, sigma) for image in images]
    np.testing.assert_allclose(degraded, expected, rtol=1e-5)


def test_constant_images_stay_what_they_are_under_blur():
    images = np.full((10, 28, 28, 1), 0.25, "float32")
    labels = np.zeros(10, "int32")
    parts = data.Restoration(
        (images, labels), noise=0, blur_sigma=5.0, validation_fraction=0.5
    )
    degraded, clean = whole(parts.validation)
    np.testing.assert_array_equal(clean, np.full_like(clean, 0.25))
    np.testing.assert_allclose(degraded, clean, rtol=1e-6)


def test_noise_is_normal_with_the_stated_deviation_and_comes_after_the_blur():
    source = arrays(200, (28, 28, 1))
    blurred, noisy = (
        data.Restoration(
            source, noise=noise, blur_sigma=5.0, validation_fraction=0.5
        )
        for noise in (0.0, 0.05)
    )
    difference = whole(noisy.validation)[0] - whole(blurred.validation)[0]
    # 78,400 draws: mean within 4 * 0.05 / 280, deviation within 1 %.
    assert abs(difference.mean()) < 8e-4
    assert difference.std() == pytest.approx(0.05, rel=0.01)
    inside = np.mean(np.abs(difference) < 0.05)
    assert inside == pytest.approx(0.6827, abs=0.01)


def test_clean_images_are_the_target_and_degraded_ones_are_not_clipped():
    images = np.zeros((40, 6, 6, 1), "uint8")
    images[20:] = 255
    parts = data.Restoration((images, np.zeros(40, "int32")))
    degraded, clean = whole(parts.epochs(0, 1))
    assert set(np.unique(clean)) == {0.0, 1.0}
    assert clean.dtype == degraded.dtype == np.float32
    assert degraded.min() < 0 and degraded.max() > 1
    assert parts.num_classes is None


def noise_by_sample(dataset):
    """Noise of each image, found by the image itself."""
    degraded, clean = whole(dataset)
    return {c.tobytes(): d - c for d, c in zip(degraded, clean)}


def test_noise_of_training_changes_with_the_epoch_and_never_elsewhere():
    images, labels = arrays()
    parts = data.Restoration((images, labels), test=(images, labels))
    first, second = (noise_by_sample(parts.epochs(e, e + 1)) for e in range(2))
    assert first.keys() == second.keys() and len(first) == 95
    assert all((first[key] != second[key]).any() for key in first)
    assert_equal_batches(batches(parts.validation), batches(parts.validation))
    again = data.Restoration((images, labels), test=(images, labels))
    assert_equal_batches(batches(parts.validation), batches(again.validation))
    assert_equal_batches([parts.test], [again.test])
    other = data.Restoration((images, labels), test=(images, labels), seed=1)
    assert (other.test[0] != parts.test[0]).all(axis=(1, 2, 3)).any()


def test_test_noise_does_not_follow_the_batch_size():
    one, other = (
        data.Restoration(arrays(), test=arrays(), batch_size=size).test
        for size in (8, 64)
    )
    assert_equal_batches([one], [other])


_DIGEST = """
import hashlib
import numpy as np
from keras_app.experiments import data
images = np.arange(60 * 36, dtype="int64").reshape(60, 6, 6, 1) % 256
source = (images.astype("uint8"), np.arange(60) % 4)
parts = data.Restoration(source, blur_sigma=2.0, batch_size=8)
digest = hashlib.sha256()
for x, y in parts.epochs(1, 3):
    digest.update(x.numpy().tobytes() + y.numpy().tobytes())
print(digest.hexdigest())
"""


def test_batches_are_bit_identical_across_processes():
    root = pathlib.Path(__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", _DIGEST],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    scope = {"print": lambda digest: scope.update(digest=digest)}
    exec(_DIGEST, scope)
    assert len(found.strip()) == 64
    assert found.strip() == scope["digest"]


# Errors.


@pytest.mark.parametrize("kind", [data.Holdout, data.Restoration])
def test_arrays_without_test_have_no_test_part(kind):
    parts = kind(arrays())
    with pytest.raises(ValueError, match="`test` must be a pair.*test=None"):
        _ = parts.test


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"validation_fraction": 0.0}, r"\(0, 1\).*validation_fraction=0.0"),
        ({"validation_fraction": 1}, "validation_fraction=1"),
        ({"validation_fraction": 0.001}, "fraction=0.001 of 100 samples"),
        ({"validation_fraction": 0.999}, "fraction=0.999 of 100 samples"),
        ({"batch_size": 0}, "`batch_size`.*batch_size=0"),
        ({"seed": -1}, "`seed`.*seed=-1"),
        ({"test": (np.zeros((2, 3)), [0, 1])}, r"`test`.*\(6, 6, 1\).*\(3,\)"),
        ({"test": (np.zeros((2, 3)), [0])}, r"`test`.*\(2, 3\) and \(1,\)"),
    ],
)
def test_bad_holdout_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        data.Holdout(arrays(), **changes)


def test_counts_must_be_integers():
    with pytest.raises(TypeError, match="`padding`.*padding=1.5"):
        data.Holdout(arrays(), padding=1.5)


@pytest.mark.parametrize("kind", [data.Holdout, data.Restoration])
def test_the_signature_names_what_every_kind_takes(kind):
    shared = inspect.signature(kind).parameters
    assert shared["batch_size"].default == 128
    assert shared["validation_fraction"].default == 0.05
    assert "parts" not in shared
    with pytest.raises(TypeError, match="batchsize"):
        kind(arrays(), batchsize=2)

    class Child(kind):
        pass

    assert inspect.signature(Child) == inspect.signature(kind)

    class Fixed(kind):
        def __init__(self, seed):
            super().__init__(arrays(), seed=seed)

    assert list(inspect.signature(Fixed).parameters) == ["seed"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noise": -0.1}, "`noise`.*noise=-0.1"),
        ({"noise": float("nan")}, "`noise`.*noise=nan"),
        ({"blur_sigma": 0}, "`blur_sigma`.*blur_sigma=0"),
        ({"blur_sigma": float("inf")}, "`blur_sigma`.*blur_sigma=inf"),
    ],
)
def test_bad_restoration_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        data.Restoration(arrays(), **changes)


def test_restoration_needs_images_in_unit_range():
    images, labels = arrays()
    with pytest.raises(ValueError, match=r"`test`.*\[0, 1\].*from 1.0 to 255"):
        data.Restoration(
            (images / 255, labels), test=(images.astype("float32"), labels)
        )
    with pytest.raises(ValueError, match=r"`name_or_arrays`.*\(100, 36\)"):
        data.Restoration((images.reshape(100, 36), labels))
    with pytest.raises(ValueError, match=r"at least 5.*\(100, 4, 6, 1\)"):
        data.Restoration((images[:, :4], labels), blur_sigma=5.0)


def test_other_bad_sources_are_refused():
    with pytest.raises(ValueError, match="`augment`.*shape \\(100, 1\\)"):
        data.Holdout(numbered(), augment=True)
    with pytest.raises(TypeError, match="`name_or_arrays`.*int"):
        data.Holdout(3)
    with pytest.raises(TypeError, match="`test` must be a pair.*int"):
        data.Holdout(arrays(), test=3)
    with pytest.raises(ValueError, match="`test` must be None.*'fashion"):
        data.Holdout("fashion_mnist_mini", test=arrays())
    with pytest.raises(ValueError, match="first=3, last=2"):
        data.Holdout(arrays()).epochs(3, 2)
