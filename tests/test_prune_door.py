"""`python -m keras_app.prune`, and what its flags are read as."""

import keras
import numpy as np
import pytest

from keras_app import cli
from keras_app import masks
from keras_app.experiments.cli import data
from keras_app.experiments.cli import structures
from keras_app.prune import main
from tests.helpers import zeros
from tests.models import images
from tests.models import network

X, Y = images()


def x_and_y():
    """For `--data=module:function`."""
    return X, Y


def two_parts():
    return (X[:20], Y[:20]), (X[20:], Y[20:])


def two_batched_parts():
    return [(X[:20], Y[:20])], [(X[20:], Y[20:])]


def broken():
    raise RuntimeError("no disk")


def forgetful():
    x_and_y()


NOT_A_FUNCTION = 3


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    network().save(path)
    return path


def test_a_model_is_pruned_and_keeps_its_masks(saved, tmp_path, capsys):
    target = tmp_path / "pruned.keras"
    assert main([str(saved), "--sparsity=0.8", f"--output={target}"]) == 0
    out = capsys.readouterr().out
    assert "dense/kernel" in out and f"written: {target}" in out
    model = keras.saving.load_model(target)
    assert zeros(model.get_layer("dense").kernel) == 512
    assert {p.name for p in tmp_path.iterdir()} == {
        "model.keras",
        "pruned.keras",
    }


def test_data_structure_and_filters(saved, tmp_path, capsys):
    np.savez(tmp_path / "arrays.npz", x=X, y=Y)
    target = tmp_path / "pruned.keras"
    main(
        [
            str(saved),
            "--method=wanda",
            "--structure=2:4",
            f"--data={tmp_path / 'arrays.npz'}",
            "--samples=8",
            "--filters=dense",
            f"--output={target}",
        ]
    )
    model = keras.saving.load_model(target)
    kernel = np.asarray(model.get_layer("dense").kernel.numpy())
    assert ((kernel.reshape(16, 4, 10) != 0).sum(1) == 2).all()
    assert zeros(model.get_layer("conv").kernel) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sparsity=80"], "Did you mean 0.8"),
        ([], "--sparsity must be given"),
        (["--structure=channel"], "--sparsity must be given"),
        (["--sparsity=much"], "much"),
        (["--sparsity=0.5", "--method=wandaa"], "Did you mean wanda"),
        (["--sparsity=0.5", "--method=wanda"], "data=None"),
        (["--sparsity=0.5", "--structure=chanel"], "Did you mean channel"),
        (["--structure=5:4"], "n=5, m=4"),
        (["--sparsity=0.8", "--structure=2:4"], "must be 0.5"),
        (["--sparsity=0.5", "--data=none.npz"], "none.npz"),
        (["--sparsity=0.5", "--sampels=4"], "Did you mean --samples"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    arguments, message, saved, tmp_path
):
    target = tmp_path / "pruned.keras"
    with pytest.raises(cli.UsageError, match=message) as error:
        main([str(saved), f"--output={target}", *arguments])
    assert "\n" not in str(error.value)
    assert not target.exists()


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("none.keras", "pruned.keras", "must be a .keras file"),
        ("text.keras", "pruned.keras", "does not load"),
        ("model.keras", "none/pruned.keras", "folder that exists"),
        ("model.keras", "pruned.h5", "must end in .keras"),
    ],
)
def test_files_that_are_none(source, target, message, saved, tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(cli.UsageError, match=message):
        main(
            [
                str(tmp_path / source),
                "--sparsity=0.5",
                f"--output={tmp_path / target}",
            ]
        )


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "text, expected",
    [
        (None, None),
        ("2:4", masks.NM(2, 4, axis="inputs")),
        ("4x1", masks.Block((4, 1))),
        ("channel", masks.Channel()),
        ("graph_channel", masks.GraphChannel()),
        ("head", masks.AttentionHead()),
        ("litert_int8", masks.TargetBlock("litert_int8")),
    ],
)
def test_structures_as_text(text, expected):
    assert structures.read(text) == expected


# ---- --data ------------------------------------------------------------


def parts(part):
    """Arrays of a part, joined where it is batches."""
    batches = part if isinstance(part, list) else [part]
    return [np.concatenate(arrays) for arrays in zip(*batches)]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "name, held_out",
    [("x_and_y", 0), ("two_parts", 12), ("two_batched_parts", 12)],
)
def test_functions(name, held_out):
    found = data.read(f"{__name__}:{name}")
    x, y = parts(found.train)
    np.testing.assert_array_equal(x, X[: 32 - held_out])
    np.testing.assert_array_equal(y, Y[: 32 - held_out])
    if held_out:
        np.testing.assert_array_equal(parts(found.validation)[0], X[20:])
    else:
        assert found.validation is None


@pytest.mark.backend_free
def test_files_of_arrays(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(path, x=X[:20], y=Y[:20], x_val=X[20:], y_val=Y[20:])
    found = data.read(str(path))
    np.testing.assert_array_equal(found.train[1], Y[:20])
    np.testing.assert_array_equal(found.validation[0], X[20:])
    assert [len(part) for part in found.first(7)] == [7, 7]
    np.savez(path, x=X)
    found = data.read(str(path))
    assert found.train[1] is None and found.validation is None
    assert found.first(7)[1] is None


@pytest.mark.backend_free
def test_a_data_set_by_name():
    found = data.read("fashion_mnist_mini")
    assert found.train[0].shape == (5700, 28, 28, 1)
    assert found.validation[0].shape == (300, 28, 28, 1)
    assert found.train[0].dtype == "float32" and found.train[0].max() == 1.0
    assert found.train[1].shape == (5700,)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "text, message",
    [
        ("none.npz", "none.npz"),
        ("text.npz", "text.npz does not load"),
        ("alone.npz", "alone.npz does not load"),
        ("other.npz", r"\['x', 'z'\]"),
        ("half.npz", "both of x_val and y_val"),
        ("short.npz", r"'x': \(32, 6, 6, 2\), 'y': \(3,\)\}"),
        ("scalar.npz", r"'x': \(\)"),
        ("no_module:function", "No module named"),
        (f"{__name__}:nothing", "nothing"),
        (f"{__name__}:broken", "RuntimeError: no disk"),
        ("broken_module:function", "SyntaxError"),
        (f"{__name__}:forgetful", "forgetful, which returned None"),
        (f"{__name__}:NOT_A_FUNCTION", "must name a function"),
        ("cifar11", "cifar10"),
    ],
)
def test_data_that_are_none(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npz").write_text("no arrays")
    with open("alone.npz", "wb") as file:
        np.save(file, X)
    np.savez("other.npz", x=X, z=Y)
    np.savez("half.npz", x=X, y=Y, x_val=X)
    np.savez("short.npz", x=X, y=Y[:3])
    np.savez("scalar.npz", x=3.0)
    (tmp_path / "broken_module.py").write_text("def function(:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        data.read(text)
