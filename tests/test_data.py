import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_app.experiments import data
from keras_app.experiments.data import loading

pytestmark = pytest.mark.backend_free

GOLDEN = pathlib.Path(__file__).parent / "golden" / "app" / "splits.npz"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def arrays(count=120, shape=(6, 6, 1), num_classes=4):
    """Images that differ from each other and have no zeros."""
    values = np.random.default_rng(7).integers(1, 256, (count, *shape))
    return values.astype("uint8"), np.arange(count) % num_classes


def batches(dataset):
    return [tuple(part.numpy() for part in batch) for batch in dataset]


def ids_of(dataset):
    return np.concatenate([batch[2] for batch in batches(dataset)])


def assert_equal_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        for left, right in zip(a, b):
            np.testing.assert_array_equal(left, right)


# Splits.


@pytest.mark.parametrize("case", ["c0", "c1"])
@pytest.mark.parametrize(
    "mode, replay, source",
    [
        ("full", "full", "first"),
        ("full_snip_current", "full", "current_first"),
        ("none", "none", "first"),
        ("one", "one", "first"),
        ("buffer", "buffer", "first"),
    ],
)
def test_splits_meet_the_recorded_ones(golden, case, mode, replay, source):
    n = int(golden[f"{case}.n"])
    splits = data.split_megabatches(
        int(golden[f"{case}.B"]),
        n,
        replay=replay,
        scoring_fraction=float(golden[f"{case}.snip_frac"]),
        scoring_source=source,
        validation_offset=45000,
        buffer_sizes=(
            int(golden[f"{case}.buf_train"]),
            int(golden[f"{case}.buf_val"]),
        ),
        rng=random.Random(int(golden[f"{case}.py_seed"])),
    )
    assert len(splits) == n
    for t, split in enumerate(splits, start=1):
        for ours, theirs in [
            ("train", "train"),
            ("validation", "val"),
            ("scoring", "snip"),
        ]:
            expected = golden[f"{case}.{mode}.t{t}.{theirs}"]
            assert split[ours].dtype == np.int64
            np.testing.assert_array_equal(split[ours], expected)


def test_few_shot_meets_the_recorded_selection(golden):
    labels = golden["fewshot.labels"]
    ids = data.few_shot(labels, int(golden["fewshot.n_shots"]))
    np.testing.assert_array_equal(ids, golden["fewshot.selected"])
    np.testing.assert_array_equal(
        labels[ids], golden["fewshot.selected_labels"]
    )


def test_worked_example_of_two_megabatches_of_ten():
    first, second = data.split_megabatches(10, 2, scoring_source="first")
    assert first["train"].tolist() == list(range(9))
    assert first["validation"].tolist() == [18]
    assert second["train"].tolist() == list(range(18))
    assert second["validation"].tolist() == [18, 19]
    assert second["scoring"].tolist() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(10, 90),
    count=st.integers(1, 6),
    replay=st.sampled_from(["full", "none", "one", "buffer"]),
    source=st.sampled_from(["random", "first", "current_first"]),
    fraction=st.floats(0.1, 0.9),
    seed=st.integers(0, 1000),
)
def test_split_properties(size, count, replay, source, fraction, seed):
    splits = data.split_megabatches(
        size,
        count,
        replay=replay,
        scoring_fraction=fraction,
        scoring_source=source,
        buffer_sizes=(3, 1),
        rng=random.Random(seed),
    )
    num_train = int(0.9 * size)
    seen = set()
    for t, split in enumerate(splits):
        train = split["train"].tolist()
        current = set(range(t * num_train, (t + 1) * num_train))
        assert current <= set(train)
        if replay == "none":
            assert set(train) == current and not seen & current
        if replay == "full":
            assert sorted(train) == list(range((t + 1) * num_train))
        if replay == "one":
            assert len(train) == num_train * min(t + 1, 2)
        if replay == "buffer":
            assert len(train) == num_train + 3 * t
        seen |= current
        assert not set(train) & set(split["validation"].tolist())
        assert set(train) <= seen
        assert len(split["scoring"]) == int(fraction * size)
        assert set(split["scoring"].tolist()) <= set(train)
        if source == "current_first":
            assert set(split["scoring"].tolist()) <= current
    everything = {i for s in splits for i in s["train"]}
    assert everything == set(range(count * num_train))


def test_random_scoring_leaves_the_buffer_draws_alone():
    random_source, first_source = (
        data.split_megabatches(
            50,
            4,
            replay="buffer",
            scoring_source=source,
            buffer_sizes=(5, 2),
            rng=random.Random(3),
        )
        for source in ("random", "first")
    )
    scoring_differs = []
    for a, b in zip(random_source, first_source):
        np.testing.assert_array_equal(a["train"], b["train"])
        np.testing.assert_array_equal(a["validation"], b["validation"])
        scoring_differs.append((a["scoring"] != b["scoring"]).any())
    assert any(scoring_differs)


def test_random_scoring_draws_from_all_megabatches_under_full_replay():
    last = data.split_megabatches(100, 5)[-1]["scoring"]
    assert len(set(last.tolist())) == 20
    assert len({i // 90 for i in last.tolist()}) == 5


def test_scoring_sample_larger_than_the_list_takes_all_with_a_warning():
    with pytest.warns(UserWarning, match="asks for 10 samples"):
        (split,) = data.split_megabatches(10, 1, scoring_fraction=1.0)
    assert sorted(split["scoring"].tolist()) == list(range(9))


@pytest.mark.parametrize("fraction, replay", [(0.0, "none"), (1.0, "full")])
def test_replay_fraction_ends_at_none_and_full(fraction, replay):
    ours = data.split_megabatches(20, 3, replay_fraction=fraction)
    expected = data.split_megabatches(20, 3, replay=replay)
    for a, b in zip(ours, expected):
        np.testing.assert_array_equal(a["train"], b["train"])
        np.testing.assert_array_equal(a["validation"], b["validation"])


def test_replay_fraction_keeps_the_same_half_of_each_earlier_megabatch():
    splits = data.split_megabatches(20, 3, replay_fraction=0.5)
    assert [len(s["train"]) for s in splits] == [18, 27, 36]
    assert [len(s["validation"]) for s in splits] == [2, 3, 4]
    kept = splits[1]["train"][:9]
    assert len(set(kept.tolist())) == 9 and kept.max() < 18
    np.testing.assert_array_equal(splits[2]["train"][:9], kept)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"megabatch_size": 1}, "`megabatch_size`.*megabatch_size=1"),
        ({"num_megabatches": 0}, "`num_megabatches`.*num_megabatches=0"),
        ({"replay": "all"}, "`replay`.*'buffer'.*replay='all'"),
        ({"scoring_source": "last"}, "`scoring_source`.*='last'"),
        ({"scoring_fraction": 0}, r"`scoring_fraction`.*\(0, 1\].*=0"),
        ({"scoring_fraction": 1.5}, "scoring_fraction=1.5"),
        ({"scoring_fraction": 0.04}, "scoring_fraction=0.04.*size=20"),
        ({"validation_offset": 53}, "= 54.*validation_offset=53"),
        (
            {"replay": "buffer", "buffer_sizes": (19, 1)},
            r"`buffer_sizes`.*18.*\(19, 1\)",
        ),
        ({"replay_fraction": 1.1}, "replay_fraction=1.1"),
        ({"replay_fraction": 0.5, "replay": "one"}, "replay='one'"),
    ],
)
def test_bad_split_arguments_are_named(changes, message):
    arguments = {"megabatch_size": 20, "num_megabatches": 3, **changes}
    with pytest.raises(ValueError, match=message):
        data.split_megabatches(**arguments)


def test_counts_of_splits_must_be_integers():
    with pytest.raises(TypeError, match="`num_megabatches`.*=2.0"):
        data.split_megabatches(20, 2.0)


@pytest.mark.parametrize(
    "labels, shots, message",
    [
        ([1, 2, 1, 2], 1, "start at 0.*Received: 1"),
        ([], 1, "`labels`"),
        ([0, 0, 1], 2, "num_shots=2, but class 1 has 1"),
        ([0, 0, 2, 2], 1, "class 1 has 0"),
        ([0, 1], 0, "num_shots=0"),
        ([0.0, 1.0], 1, "`labels` must be"),
    ],
)
def test_bad_few_shot_arguments_are_named(labels, shots, message):
    with pytest.raises(ValueError, match=message):
        data.few_shot(labels, shots)


# Loading.


@pytest.mark.parametrize("split, per_class", [("train", 600), ("test", 100)])
def test_shipped_set_is_balanced(split, per_class):
    images, labels = data.load_arrays("fashion_mnist_mini", split)
    assert images.shape == (10 * per_class, 28, 28, 1)
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [per_class] * 10
    # Mixed classes: every run of ten has each once.
    assert (labels.reshape(-1, 10) == np.arange(10)).all()
    assert len({image.tobytes() for image in images}) == len(images)
    # Fashion-MNIST has mean 0.286 and standard deviation 0.353.
    assert abs(images.mean() / 255 - 0.286) < 0.01
    assert abs(images.std() / 255 - 0.353) < 0.01


def test_shipped_set_is_small_and_carries_its_licence():
    folder = loading.SHIPPED_DATA_DIR / "fashion_mnist_mini"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    licence = (folder / "LICENSE").read_text()
    assert "MIT License" in licence and "2017 Zalando SE" in licence


def test_shipped_set_loads_with_the_stock_library():
    import tensorflow_datasets as tfds

    dataset, info = tfds.load(
        "fashion_mnist_mini",
        data_dir=str(loading.SHIPPED_DATA_DIR),
        split="test",
        download=False,
        as_supervised=True,
        with_info=True,
    )
    assert len(dataset) == 1000
    assert info.features["label"].names[9] == "Ankle boot"


def test_info_and_test_split_describe_the_shipped_set():
    info = data.info("fashion_mnist_mini")
    assert info.image_shape == (28, 28, 1)
    assert info.num_classes == 10 and info.class_names[0] == "T-shirt/top"
    assert info.num_examples == {"train": 6000, "test": 1000}
    assert data.test_split("fashion_mnist_mini") == "test"


def test_load_yields_ids_in_stored_order():
    dataset = data.load("fashion_mnist_mini", "test[:20]", with_ids=True)
    rows = batches(dataset)
    assert [int(row[2]) for row in rows] == list(range(20))
    images, labels = data.load_arrays("fashion_mnist_mini", "test")
    np.testing.assert_array_equal(rows[13][0], images[13])
    assert int(rows[13][1]) == labels[13]


def test_test_split_falls_back_to_validation(tmp_path):
    write_set(tmp_path, "toy", {"train": 6, "validation": 3})
    assert data.test_split("toy", tmp_path) == "validation"
    write_set(tmp_path, "toy_train", {"train": 6})
    with pytest.raises(ValueError, match="name='toy_train'.*'train'"):
        data.test_split("toy_train", tmp_path)


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    write_set(tmp_path, "toy", {"train": 6})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert data.load_arrays("toy", "train")[0].shape == (6, 4, 4, 3)


def write_set(root, name, counts):
    """Prepares a data set that TFDS has no code for."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
    )
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    for split, count in counts.items():
        path = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for i in range(count):
                image = np.full((4, 4, 3), i, "uint8")
                example = {"image": image, "label": i % 3}
                encoded = features.encode_example(example)
                writer.write(features.serialize_example(encoded))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        supervised_keys=("image", "label"),
        version="1.0.0",
    )


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("fashion_mnist_mimi", "train", "`name`.*mean 'fashion_mnist_mini'"),
        ("cifr10", "train", "`name`.*name='cifr10'.*mean 'cifar10'"),
        ("", "train", "`name`.*name=''"),
        ("mnist/digits", "train", "`name`.*name='mnist/digits'"),
        ("fashion_mnist_mini", "tset", "'train'.*split='tset'.*mean 'test'"),
        ("fashion_mnist_mini", "train[:9x]", r"split='train\[:9x\]'"),
        ("fashion_mnist_mini", None, "split=None"),
    ],
)
def test_unknown_names_and_splits_suggest_close_ones(name, split, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.load(name, split)
    assert "\n" not in str(caught.value)


def test_shipped_set_elsewhere_says_where_it_is(tmp_path):
    with pytest.raises(OSError, match="leave `data_dir` out"):
        data.load("fashion_mnist_mini", "train", tmp_path)


def no_network(*args, **kwargs):
    raise OSError("no network in this test")


@pytest.mark.parametrize("download", [True, False])
def test_offline_fails_soon_and_leaves_nothing(tmp_path, monkeypatch, download):
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr("socket.create_connection", no_network)
    folder = tmp_path / "some" / "where"
    begin = time.monotonic()
    with pytest.raises(OSError) as caught:
        data.load("cifar10", "train", folder, download=download)
    assert time.monotonic() - begin < 10
    message = str(caught.value)
    assert "'cifar10'" in message and str(folder) in message
    assert "data_dir=" in message and "TFDS_DATA_DIR" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_silent_network_fails_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *args, **kwargs: time.sleep(3) or []
    )
    begin = time.monotonic()
    with pytest.raises(OSError, match="cannot be reached"):
        data.load("cifar10", "train", tmp_path)
    assert time.monotonic() - begin < 2.5


def test_failure_while_preparing_removes_only_its_own_files(
    tmp_path, monkeypatch
):
    import tensorflow_datasets as tfds

    root = tmp_path / "sets"
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "mine.zip").write_text("keep")

    def fail(builder, **kwargs):
        made = pathlib.Path(builder.data_dir).parent / "incomplete.AB_3.0.2"
        made.mkdir(parents=True)
        (made / "half").write_text("half")
        (root / "downloads" / "cifar10" / "x.tmp.1").mkdir(parents=True)
        raise RuntimeError("disk full\nsecond line")

    monkeypatch.setattr(loading, "_reachable", lambda urls: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(OSError, match="RuntimeError: disk full") as caught:
        data.load("cifar10", "train", root)
    assert "\n" not in str(caught.value)
    left = sorted(str(p.relative_to(root)) for p in root.rglob("*"))
    assert left == ["downloads", "downloads/mine.zip"]


# Megabatches.


def test_megabatches_hold_the_samples_their_ids_name():
    images, labels = arrays()
    megabatches = data.Megabatches(
        (images, labels), 3, batch_size=16, with_ids=True, augment=False
    )
    assert len(megabatches) == 3
    assert megabatches.image_shape == (6, 6, 1)
    assert megabatches.num_classes == 4
    seen = set()
    for t, megabatch in enumerate(megabatches):
        assert megabatch.index == t
        for dataset, ids in [
            (megabatch.train, megabatch.train_ids),
            (megabatch.validation, megabatch.validation_ids),
            (megabatch.scoring, megabatch.scoring_ids),
        ]:
            found = batches(dataset)
            x, y, i = (np.concatenate(part) for part in zip(*found))
            assert x.dtype == np.float32 and i.dtype == np.int64
            assert sorted(i.tolist()) == sorted(ids.tolist())
            np.testing.assert_array_equal(x, images[i] / np.float32(255))
            np.testing.assert_array_equal(y, labels[i])
        assert len(megabatch.train_ids) == 36 * (t + 1)
        assert len(megabatch.validation_ids) == 4 * (t + 1)
        assert len(megabatch.scoring_ids) == 8
        seen = set(megabatch.train_ids) | set(megabatch.validation_ids)
    assert seen == set(range(120))


def test_last_batch_may_be_smaller_and_lengths_are_known():
    megabatch = data.Megabatches(arrays(), 3, batch_size=16)[0]
    assert megabatch.steps_per_epoch == 3
    assert len(megabatch.train) == 3
    assert len(megabatch.epochs(2, 4)) == 6
    assert [len(y) for _, y in batches(megabatch.train)] == [16, 16, 4]


def test_splits_follow_the_source_without_shuffle_and_mix_it_with():
    stored = data.Megabatches(arrays(), 3, shuffle=False)[0]
    assert stored.train_ids.tolist() == list(range(36))
    assert stored.validation_ids.tolist() == [108, 109, 110, 111]
    mixed = data.Megabatches(arrays(), 3, seed=5)[0].train_ids
    expected = np.random.default_rng(5).permutation(120)[:36]
    np.testing.assert_array_equal(mixed, expected)


def test_epochs_continue_where_a_run_stopped():
    megabatch = data.Megabatches(
        arrays(), 2, batch_size=16, augment=True, padding=2, with_ids=True
    )[1]
    whole = batches(megabatch.epochs(0, 4))
    tail = batches(megabatch.epochs(2, 4))
    assert_equal_batches(tail, whole[2 * megabatch.steps_per_epoch :])


def test_epochs_cover_the_samples_in_orders_that_differ():
    megabatch = data.Megabatches(arrays(), 2, with_ids=True)[0]
    orders = [ids_of(megabatch.epochs(e, e + 1)).tolist() for e in range(3)]
    for order in orders:
        assert sorted(order) == sorted(megabatch.train_ids.tolist())
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_order_depends_on_seed_and_megabatch_only():
    import tensorflow as tf

    def first(seed, index):
        source = data.Megabatches(arrays(), 2, replay="none", seed=seed)
        found = batches(source[index].epochs(0, 1))
        return np.concatenate([y for _, y in found])

    reference = first(0, 0)
    tf.random.set_seed(99)
    np.testing.assert_array_equal(first(0, 0), reference)
    assert (first(1, 0) != reference).any()
    assert (first(0, 1) != reference).any()


def test_train_is_in_a_new_order_at_each_pass_and_repeats_under_the_seed():
    import tensorflow as tf

    def passes():
        tf.random.set_seed(1)
        megabatch = data.Megabatches(arrays(), 2, with_ids=True)[0]
        return [ids_of(megabatch.train).tolist() for _ in range(3)]

    found = passes()
    assert found[0] != found[1] != found[2] != found[0]
    assert passes() == found


def test_augmentation_is_on_training_data_only():
    images, labels = arrays()
    megabatch = data.Megabatches(
        (images, labels), 2, augment=True, padding=2, with_ids=True
    )[0]
    for dataset, changes in [
        (megabatch.epochs(0, 1), True),
        (megabatch.train, True),
        (megabatch.validation, False),
        (megabatch.scoring, False),
    ]:
        for x, _, ids in batches(dataset):
            same = (x == images[ids] / np.float32(255)).all(axis=(1, 2, 3))
            assert same.all() if not changes else same.mean() < 0.5


def test_training_images_are_augmented_unless_told_otherwise():
    images, labels = arrays()
    first = data.Megabatches((images, labels), 2, with_ids=True)[0]
    x, _, ids = batches(first.train)[0]
    same = (x == images[ids] / np.float32(255)).all(axis=(1, 2, 3))
    assert same.mean() < 0.5
    features = images.reshape(len(images), -1)
    flat = data.Megabatches((features, labels), 2, with_ids=True)[0]
    x, _, ids = batches(flat.train)[0]
    np.testing.assert_array_equal(x, features[ids] / np.float32(255))


def test_augmentation_switches_of_validation_and_scoring():
    images, labels = arrays()
    megabatch = data.Megabatches(
        (images, labels),
        2,
        augment=False,
        augment_validation=True,
        augment_scoring=True,
        with_ids=True,
    )[0]
    for dataset, changes in [
        (megabatch.train, False),
        (megabatch.validation, True),
        (megabatch.scoring, True),
    ]:
        found = batches(dataset)
        x, ids = found[0][0], found[0][2]
        assert (x == images[ids] / np.float32(255)).all() != changes
        if changes:
            assert_equal_batches(batches(dataset), found)


def test_augmented_images_are_shifted_and_flipped_originals():
    images, labels = arrays()
    megabatch = data.Megabatches(
        (images, labels), 2, augment=True, padding=1, with_ids=True
    )[0]
    seen = set()
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for x, _, ids in batches(megabatch.epochs(0, 4)):
        for image, i in zip(x, ids):
            matches = [
                (top, left, flip)
                for top in range(3)
                for left in range(3)
                for flip in (1, -1)
                if np.allclose(
                    image * 255,
                    padded[i, top : top + 6, left : left + 6][:, ::flip],
                    atol=1e-3,
                )
            ]
            assert len(matches) == 1
            seen.add(matches[0])
    assert len(seen) == 18


def test_no_flip_and_no_padding_change_nothing():
    images, labels = arrays()
    megabatch = data.Megabatches(
        (images, labels), 2, augment=True, padding=0, flip=False, with_ids=True
    )[0]
    for x, _, ids in batches(megabatch.train):
        np.testing.assert_array_equal(x, images[ids] / np.float32(255))


def test_float_features_of_any_shape_pass_unchanged():
    features = np.random.default_rng(0).normal(size=(40, 5))
    megabatch = data.Megabatches(
        (features, np.arange(40) % 2), 2, with_ids=True
    )[0]
    for x, _, ids in batches(megabatch.train):
        np.testing.assert_array_equal(x, features[ids].astype("float32"))


def test_few_shot_selection_comes_before_the_split():
    images, labels = arrays()
    megabatches = data.Megabatches((images, labels), 2, num_shots=10)
    last = megabatches[-1]
    ids = np.concatenate([last.train_ids, last.validation_ids])
    assert sorted(ids.tolist()) == list(range(40))


def test_named_source_is_loaded():
    megabatches = data.Megabatches("fashion_mnist_mini", 10, num_shots=20)
    assert megabatches.num_classes == 10
    x, y = batches(megabatches[0].scoring)[0]
    assert x.shape == (4, 28, 28, 1) and 0 <= x.min() <= x.max() <= 1


_DIGEST = """
import hashlib, sys
import numpy as np
import tensorflow as tf
if sys.argv[1] == "deterministic":
    tf.config.experimental.enable_op_determinism()
from keras_app.experiments import data
images = np.arange(60 * 36, dtype="int64").reshape(60, 6, 6, 1) % 256
source = (images.astype("uint8"), np.arange(60) % 4)
megabatch = data.Megabatches(source, 2, augment=True, batch_size=8)[1]
tf.random.set_seed(3)
megabatch_again = data.Megabatches(source, 2, augment=True, batch_size=8)[1]
digest = hashlib.sha256()
for dataset in (megabatch.epochs(0, 3), megabatch_again.train):
    for x, y in dataset:
        digest.update(x.numpy().tobytes() + y.numpy().tobytes())
print(digest.hexdigest())
"""


def test_batches_are_bit_identical_across_processes():
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    digests = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST, mode],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for mode in ("plain", "deterministic")
    ]
    assert len(digests[0].strip()) == 64
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"megabatch_size": 60}, r"\(3\).*\(60\).*180.*120 samples"),
        ({"megabatch_size": 20, "validation_offset": 115}, "121.*120"),
        ({"num_megabatches": 0}, "num_megabatches=0"),
        ({"num_megabatches": 100}, "megabatch_size=1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"scoring_batch_size": -1}, "scoring_batch_size=-1"),
        ({"padding": -1}, "padding=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"replay": "some"}, "replay='some'"),
        ({"num_shots": 31}, "num_shots=31"),
    ],
)
def test_bad_megabatch_arguments_are_named(changes, message):
    arguments = {"num_megabatches": 3, **changes}
    with pytest.raises(ValueError, match=message):
        data.Megabatches(arrays(), **arguments)


def test_augmentation_needs_images():
    source = (np.zeros((40, 5)), np.arange(40) % 2)
    with pytest.raises(ValueError, match=r"`augment`.*\(40, 5\)"):
        data.Megabatches(source, 2, augment=True)


def test_bad_sources_are_refused():
    images, labels = arrays()
    with pytest.raises(TypeError, match="name_or_arrays"):
        data.Megabatches(3, 2)
    with pytest.raises(ValueError, match=r"\(120, 6, 6, 1\) and \(119,\)"):
        data.Megabatches((images, labels[1:]), 2)
    with pytest.raises(ValueError, match="integer labels"):
        data.Megabatches((images, labels.astype("float32")), 2)


def test_bad_epochs_and_indices_are_refused():
    megabatches = data.Megabatches(arrays(), 2)
    with pytest.raises(ValueError, match="first=3, last=2"):
        megabatches[0].epochs(3, 2)
    with pytest.raises(IndexError, match="index=2"):
        megabatches[2]
    assert megabatches[-1].index == 1
