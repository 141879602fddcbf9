"""Files of a run: atomic, verified, bounded."""

import functools
import json
import os
import threading

import numpy as np
import pytest

from keras_app import files
from keras_app.experiments.run import folder as run_folder
from keras_app.experiments.run.folder import RunFolder
from tests.helpers import locked

pytestmark = pytest.mark.backend_free


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin()
    return folder


def arrays():
    return {
        "a": np.arange(6, dtype="float32").reshape(2, 3),
        "b": np.array([True, False]),
        "c": np.array(7, "int64"),
        "d": np.zeros((0, 4), "float16"),
    }


def test_a_checkpoint_comes_back_bit_for_bit(folder):
    folder.save_checkpoint(arrays(), {"step": 3})
    loaded, meta, skipped = folder.load_checkpoint()
    assert meta == {"step": 3}
    assert skipped == []
    assert list(loaded) == ["a", "b", "c", "d"]
    for name, array in arrays().items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()


def test_bfloat16_survives(folder):
    import ml_dtypes

    array = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    folder.save_checkpoint({"a": array}, {})
    loaded = folder.load_checkpoint()[0]["a"]
    assert loaded.dtype == array.dtype
    assert loaded.tobytes() == array.tobytes()


def test_only_the_last_two_checkpoints_are_kept(folder):
    for step in range(5):
        folder.save_checkpoint({"a": np.array(step)}, {"step": step})
    folder.flush()
    names = sorted(p.name for p in (folder.path / "checkpoints").iterdir())
    assert names == ["000003.ckpt", "000004.ckpt"]
    assert folder.load_checkpoint()[1] == {"step": 4}
    # Killed before the oldest was dropped, and no other came.
    (folder.path / "checkpoints" / "000002.ckpt").write_bytes(b"older")
    folder.drop_old_checkpoints()
    assert names == sorted(
        p.name for p in (folder.path / "checkpoints").iterdir()
    )


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_is_passed_over(folder, damage):
    folder.save_checkpoint(arrays(), {"step": 1})
    folder.save_checkpoint(arrays(), {"step": 2})
    folder.flush()
    newest = folder.path / "checkpoints" / "000001.ckpt"
    data = bytearray(newest.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    else:
        data = b""
    newest.write_bytes(data)
    _, meta, skipped = folder.load_checkpoint()
    assert meta == {"step": 1}
    assert skipped == [str(newest)]


def test_all_checkpoints_damaged_is_an_error_naming_them(folder):
    folder.save_checkpoint(arrays(), {})
    folder.flush()
    (folder.path / "checkpoints" / "000000.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="000000.ckpt"):
        folder.load_checkpoint()


def test_no_checkpoint_is_none(folder):
    assert folder.load_checkpoint() is None


# ---- written in the background --------------------------------------------


@pytest.fixture
def slow_disk(monkeypatch):
    """No checkpoint reaches the disk before this event is set."""
    go_on, sync = threading.Event(), files._sync

    def wait(path):
        assert go_on.wait(60)
        sync(path)

    monkeypatch.setattr(files, "_sync", wait)
    yield go_on
    go_on.set()


def test_what_changes_behind_a_checkpoint_is_not_in_it(folder, slow_disk):
    weights, meta = np.zeros(3), {"results": [1]}
    # As PyTorch hands out its variables: views, of any order in memory.
    folder.save_checkpoint({"a": weights[::-1]}, meta)
    weights += 1
    meta["results"].append(2)
    slow_disk.set()
    found, read, _ = folder.load_checkpoint()
    np.testing.assert_array_equal(found["a"], np.zeros(3))
    assert read == {"results": [1]}


def test_training_goes_on_while_a_checkpoint_is_written(folder, slow_disk):
    folder.save_checkpoint(arrays(), {"step": 1})
    # Here it would wait forever if it was written first.
    checkpoints = folder.path / "checkpoints"
    assert not list(checkpoints.glob("0*.ckpt"))
    slow_disk.set()
    folder.flush()
    assert [p.name for p in checkpoints.iterdir()] == ["000000.ckpt"]


def test_one_checkpoint_at_most_is_being_written(folder, slow_disk):
    folder.save_checkpoint(arrays(), {"step": 1})
    threading.Timer(0.1, slow_disk.set).start()
    folder.save_checkpoint(arrays(), {"step": 2})
    assert slow_disk.is_set()
    assert folder.load_checkpoint()[1] == {"step": 2}


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("when", ["the next one", "the end"])
def test_a_full_disk_is_said_by_the_next_checkpoint_or_at_the_end(
    folder, monkeypatch, when
):
    folder.save_checkpoint(arrays(), {"step": 1})
    folder.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        folder.save_checkpoint(arrays(), {"step": 2})
        with pytest.raises(OSError, match="No space left"):
            if when == "the end":
                folder.flush()
            folder.save_checkpoint(arrays(), {"step": 3})
    # Nothing half written takes the room, and it is said once.
    names = [p.name for p in (folder.path / "checkpoints").iterdir()]
    assert names == ["000000.ckpt"]
    folder.save_checkpoint(arrays(), {"step": 3})
    assert folder.load_checkpoint()[1] == {"step": 3}


# ---- kills in between ------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL, behind which nothing happens any more."""


class Machine:
    """Counts what a process asks of the disk, and kills it at one of them.

    Args:
        monkeypatch: pytest's.
        last: Number of the call that is the last one, half of which happens
            if it writes. `None` kills nothing.
    """

    def __init__(self, monkeypatch, last=None):
        self.last = last
        self.calls = []
        self.open = open
        for name in ("replace", "fsync", "unlink"):
            call = getattr(os, name)
            monkeypatch.setattr(os, name, functools.partial(self.do, call))
        opened = functools.partial(self.do, self.opened)
        monkeypatch.setattr(run_folder, "open", opened, raising=False)

    def do(self, call, *args, **kwargs):
        self.calls.append(call.__name__)
        if self.last is not None and len(self.calls) > self.last:
            raise Killed
        return call(*args, **kwargs)

    def opened(self, path, mode):
        """Without a buffer, whose content would survive the kill."""
        machine, file = self, self.open(path, mode, buffering=0)

        class File:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                data = bytes(data)
                try:
                    return machine.do(file.write, data)
                except Killed:
                    file.write(data[: len(data) // 2])
                    raise

            def seek(self, where):
                return machine.do(file.seek, where)

            def flush(self):
                pass

        return File()


def save_two(path, monkeypatch, last=None):
    """Keeps steps 1 and 2, then saves 3 on a machine; returns its calls."""
    folder = RunFolder(path)
    folder.begin()
    for step in (1, 2):
        folder.save_checkpoint({"a": np.full(5, step)}, {"step": step})
    folder.flush()
    with monkeypatch.context() as patched:
        machine = Machine(patched, last)
        folder.save_checkpoint({"a": np.full(5, 3)}, {"step": 3})
        try:
            folder.flush()
        except Killed:
            pass
    return machine.calls


def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new(
    tmp_path, monkeypatch
):
    calls = save_two(tmp_path / "whole", monkeypatch)
    assert {"opened", "write", "seek", "fsync", "replace", "unlink"} <= {*calls}
    found = []
    for last in range(len(calls) + 1):
        path = tmp_path / str(last)
        save_two(path, monkeypatch, last)
        after = RunFolder(path)
        after.begin()
        loaded, meta, skipped = after.load_checkpoint()
        assert skipped == []
        np.testing.assert_array_equal(loaded["a"], np.full(5, meta["step"]))
        found.append(meta["step"])
        # The run goes on, and cleans up what the kill left.
        for step in (4, 5):
            after.save_checkpoint({"a": np.full(5, step)}, {"step": step})
        assert after.load_checkpoint()[1] == {"step": 5}
        assert len(list((path / "checkpoints").iterdir())) == 2
    # Old until the rename has happened, new ever after.
    renamed = calls.index("replace")
    assert found == [2] * (renamed + 1) + [3] * (len(calls) - renamed)


def test_a_write_that_fails_leaves_the_old_file(folder):
    folder.write_text("x.txt", "old")
    with pytest.raises(RuntimeError):
        with folder.replacing("x.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert (folder.path / "x.txt").read_text() == "old"
    assert sorted(p.name for p in folder.path.iterdir()) == [
        ".lock",
        "checkpoints",
        "x.txt",
    ]


def test_a_log_written_anew_has_the_bytes_of_one_that_grew(folder):
    events = [{"epoch": 0, "loss": 0.1 + 0.2}, {"epoch": 1, "loss": 1e-30}]
    for event in events:
        folder.log(event)
    grown = (folder.path / "metrics.jsonl").read_bytes()
    assert [json.loads(line) for line in grown.splitlines()] == events
    folder.log({"epoch": 2})
    # As a checkpoint brings them back.
    folder.write_log(json.loads(json.dumps(events)))
    assert (folder.path / "metrics.jsonl").read_bytes() == grown


def test_a_folder_in_use_is_refused_without_resume(folder):
    folder.write_text("x.txt", "something")
    with pytest.raises(ValueError, match="holds files already.*--resume"):
        folder.check(resume=False)
    assert folder.check(resume=True) is None


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        RunFolder(tmp_path / "file").check(resume=False)


def test_checking_makes_nothing(tmp_path):
    RunFolder(tmp_path / "new" / "run").check(resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_by_another_process_is_refused(folder):
    # The fixture began it in this process, whose lock goes with the file.
    folder._claim.release()
    with locked(folder.path / ".lock"):
        with pytest.raises(ValueError, match="in use by another process"):
            RunFolder(folder.path).begin()
    RunFolder(folder.path).begin()
