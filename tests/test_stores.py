"""Paths of object stores: S3 by a server on the loopback, and in memory."""

import json
import os
import subprocess
import sys
import threading
import uuid

import fsspec
import keras
import numpy as np
import pytest

from keras_app import claims
from keras_app import cli
from keras_app import experiments
from keras_app import files
from keras_app import stores
from keras_app.experiments import export_run
from keras_app.experiments.data import loading
from keras_app.experiments.page import default_path
from keras_app.experiments.page import write_page
from keras_app.experiments.run.folder import RunFolder
from keras_app.experiments.run.session import Session
from keras_app.export import load_sparse
from keras_app.export import save_sparse
from keras_app.lottery import PracSets
from tests import s3
from tests.helpers import ROOT

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module")
def server():
    with s3.serving() as environment:
        yield environment


@pytest.fixture
def on_s3(server, monkeypatch):
    """A new folder of the server, as a text."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["s3", "memory"])
def place(request):
    """The same, and one of a store that is in this process."""
    if request.param == "s3":
        return request.getfixturevalue("on_s3")
    return f"memory://{uuid.uuid4().hex}"


def names(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*"))


# ---- paths -----------------------------------------------------------------


def test_a_path_of_a_store_is_used_as_one_of_a_disk(place):
    folder = files.path(f"{place}/a")
    assert str(folder / "b.txt") == f"{place}/a/b.txt"
    assert str(folder.parent) == place
    assert (folder / "b.txt").suffix == ".txt"
    assert not folder.exists() and not folder.is_dir()
    assert list(folder.glob("*")) == []
    files.write_bytes(folder / "b.txt", b"one")
    files.write_bytes(folder / "c" / "d.bin", b"three")
    assert folder.is_dir() and not folder.is_file()
    assert (folder / "b.txt").is_file() and not (folder / "b.txt").is_dir()
    assert (folder / "b.txt").stat().st_size == 3
    assert [x.name for x in folder.iterdir()] == ["b.txt", "c"]
    assert [x.name for x in folder.glob("*.txt")] == ["b.txt"]
    assert names(folder) == ["b.txt", "c/d.bin"]
    files.append_text(folder / "b.txt", " and two")
    assert (folder / "b.txt").read_text() == "one and two"
    with files.local(folder) as there:
        assert (there / "c" / "d.bin").read_bytes() == b"three"
    (folder / "b.txt").unlink()
    assert names(folder) == ["c/d.bin"]
    files.remove_folder(folder)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["runs/a", "/tmp/a", "file:///tmp/a"])
def test_other_paths_stay_on_the_disk(text):
    path = files.path(text)
    assert not files.is_stored(path)
    assert str(path) == text.removeprefix("file://")


@pytest.mark.parametrize("text", ["s3://", "nowhere://bucket/run"])
def test_what_is_no_path_is_said(text):
    with pytest.raises(ValueError, match=f"Received: {text}"):
        files.path(text)


def test_packages_that_are_missing_are_named(monkeypatch):
    def missing(scheme):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ImportError, match=r"pip install 'keras_app\[cloud\]'"):
        files.path("s3://bucket/run")


def test_google_cloud_storage_goes_the_same_way(monkeypatch):
    asked = []
    memory = fsspec.filesystem("memory")

    def filesystem(scheme, **options):
        asked.append((scheme, options))
        return memory

    path = files.path("gs://bucket/a.txt")
    with monkeypatch.context() as patched:
        patched.setattr(fsspec, "filesystem", filesystem)
        path.file_system.pipe_file("memory://bucket/a.txt", b"1")
    assert asked == [
        ("gs", {"use_listings_cache": False, "consistency": "crc32c"})
    ]


# ---- writing ---------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_object(place):
    target = files.path(f"{place}/x.txt")
    files.write_bytes(target, b"old")
    with pytest.raises(RuntimeError):
        with files.replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["x.txt"]


def test_an_object_that_arrives_short_is_an_error(on_s3, monkeypatch):
    target = files.path(f"{on_s3}/x.txt")
    put = target.file_system.pipe_file
    monkeypatch.setattr(
        target.file_system, "pipe_file", lambda path, data: put(path, data[:2])
    )
    with pytest.raises(OSError, match="2 of 5 bytes have arrived"):
        target.write_bytes(b"whole")


def test_a_folder_has_its_mark_last(place, monkeypatch):
    target = files.path(f"{place}/folder")
    order = []
    upload = stores.StorePath.upload

    def noting(self, file):
        order.append(str(self.relative_to(target)))
        upload(self, file)

    monkeypatch.setattr(stores.StorePath, "upload", noting)
    for content in ("first", "second"):
        with files.replacing_folder(target, "mark.pb") as folder:
            (folder / "z").mkdir(parents=True)
            (folder / "mark.pb").write_text(content)
            (folder / "z" / "data").write_text(content)
            if content == "first":
                (folder / "old").write_text("only here")
    assert order[-1] == "mark.pb"
    assert names(target) == ["mark.pb", "z/data"]
    assert (target / "z" / "data").read_text() == "second"


# ---- run folders -----------------------------------------------------------


def test_checkpoints_come_back_and_the_last_two_are_kept(place):
    folder = RunFolder(f"{place}/run")
    folder.check(resume=False)
    folder.begin()
    for step in range(4):
        array = np.arange(6, dtype="float32") + step
        folder.save_checkpoint({"a": array}, {"step": step})
    folder.release()
    assert names(folder.path) == [
        "checkpoints/000002.ckpt",
        "checkpoints/000003.ckpt",
    ]
    (folder.path / "checkpoints" / "000003.ckpt").write_bytes(b"damaged")
    arrays, meta, skipped = RunFolder(folder.path).load_checkpoint()
    assert meta == {"step": 2}
    assert arrays["a"].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert skipped == [f"{place}/run/checkpoints/000003.ckpt"]


def test_a_folder_with_files_needs_resume(place):
    folder = RunFolder(place)
    folder.write_text("x.txt", "something")
    with pytest.raises(ValueError, match="holds files already.*--resume"):
        folder.check(resume=False)
    assert folder.check(resume=True) is None
    assert names(folder.path) == ["x.txt"]


def test_what_was_begun_in_vain_is_removed(place):
    folder = RunFolder(f"{place}/run")
    folder.begin()
    folder.write_text("config.gin", "")
    folder.release()
    folder.discard()
    assert not folder.path.exists()


def test_events_and_the_log_arrive_with_the_checkpoint(place):
    folder = RunFolder(f"{place}/run")
    with Session(folder, {}, resume=False, verbose=False) as session:
        session.begin(None)
        session.open_events("dense")
        session.scalar("loss", 0.5, 1)
        session.log({"event": "epoch", "method": "dense", "loss": 0.5})
        session.log({"event": "epoch", "method": "dense", "loss": 0.25})
        session.checkpoint({}, {})
        [events] = (folder.path / "tensorboard" / "dense").iterdir()
        size = events.stat().st_size
        assert size > 0
        session.scalar("loss", 0.25, 2)
        session.checkpoint({}, {})
        assert events.stat().st_size > size
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [0.5, 0.25]


@pytest.mark.parametrize(
    "run_dir, words",
    [
        ("s3://no-such-bucket/run", "The specified bucket does not exist"),
        ("s3://", "with a bucket"),
        ("nowhere://bucket/run", "must be on a disk, or of a store"),
    ],
)
def test_a_wrong_place_is_refused_in_one_sentence(on_s3, run_dir, words):
    with pytest.raises(ValueError, match=words) as error:
        RunFolder(run_dir).check(resume=False)
    assert "\n" not in cli.one_line(error.value)


def fresh(**environment):
    """Checks a run folder in a process without the credentials of this one."""
    program = (
        "from keras_app.experiments.run.folder import RunFolder\n"
        "RunFolder('s3://tests/run').check(resume=True)\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k[:4] != "AWS_"}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )


def test_missing_credentials_are_said_in_one_sentence(on_s3):
    done = fresh(
        AWS_ENDPOINT_URL=os.environ["AWS_ENDPOINT_URL"],
        AWS_EC2_METADATA_DISABLED="true",
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last == "OSError: s3://tests/run: Unable to locate credentials"


# ---- who may write ---------------------------------------------------------


HOLDER = """
import sys
from keras_app import files
files.claim(files.path(sys.argv[1]))
print("mine", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_its_process_is_killed(on_s3):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, on_s3],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(ValueError, match="in use by another.*process") as error:
        RunFolder(on_s3).begin()
    assert f"process {other.pid} on " in str(error.value)
    other.kill()
    other.communicate()
    folder = RunFolder(on_s3)
    folder.begin()
    assert names(folder.path) == [".claim-000002"]
    folder.release()
    assert names(folder.path) == []


def test_one_of_many_gets_the_folder(place):
    folder = files.path(place)
    here = threading.Barrier(8)
    won = []

    def take(number):
        here.wait()
        try:
            (folder / ".claim-000001").create(b"%d" % number)
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=take, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (folder / ".claim-000001").read_bytes() == b"%d" % won[0]


@pytest.fixture
def soon(monkeypatch):
    """What takes a minute takes a moment."""
    monkeypatch.setattr(claims, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(claims, "_GLANCE_SECONDS", 0.05)
    monkeypatch.setattr(claims, "_EXPIRES_SECONDS", 3.0)


def elsewhere(folder, beat=0):
    """Writes the claim of a process that no one here can look for."""
    claim = {
        "token": "theirs",
        "machine": "another",
        "host": "far-away",
        "process": 7,
        "started": "1",
        "beat": beat,
    }
    (folder / ".claim-000001").write_bytes(json.dumps(claim).encode())


def test_a_claim_of_another_machine_expires(place, soon, capsys):
    folder = files.path(place)
    elsewhere(folder)
    claim = claims.Claim(folder)
    said = capsys.readouterr().err
    assert "claimed by process 7 on far-away: waiting" in said
    assert names(folder) == [".claim-000002"]
    claim.release()


def test_a_claim_of_another_machine_that_is_renewed_is_in_use(place, soon):
    folder = files.path(place)
    elsewhere(folder)
    over = threading.Event()

    def renew():
        beat = 0
        while not over.wait(0.2):
            elsewhere(folder, beat := beat + 1)

    owner = threading.Thread(target=renew)
    owner.start()
    try:
        with pytest.raises(claims.InUse, match="process 7 on far-away"):
            claims.Claim(folder)
    finally:
        over.set()
        owner.join()
    assert names(folder) == [".claim-000001"]


def test_who_was_replaced_writes_no_more(place):
    mine = RunFolder(place)
    mine.begin()
    mine.save_checkpoint({}, {"step": 1})
    mine.flush()
    # As after a sleep of more than a minute.
    elsewhere(mine.path)
    (mine.path / ".claim-000002").write_bytes(
        (mine.path / ".claim-000001").read_bytes()
    )
    with pytest.raises(OSError, match="taken over by process 7 on far-away"):
        mine.save_checkpoint({}, {"step": 2})
    mine.release()
    assert RunFolder(place).load_checkpoint()[1] == {"step": 1}


def test_who_was_replaced_writes_no_more_when_the_other_has_ended(place):
    mine = RunFolder(place)
    mine.begin()
    (mine.path / ".claim-000001").unlink()
    with pytest.raises(OSError, match="taken over by another process"):
        mine.save_checkpoint({}, {"step": 1})
    mine.release()
    assert names(mine.path) == []


def test_a_claim_is_renewed_as_long_as_it_is_held(place, soon):
    claim = claims.Claim(files.path(place))
    path = files.path(place) / ".claim-000001"
    beats = set()
    for _ in range(400):
        beats.add(json.loads(path.read_bytes())["beat"])
        if len(beats) > 2:
            break
        threading.Event().wait(0.02)
    claim.release()
    assert len(beats) > 2


# ---- what is kept there ----------------------------------------------------


def model():
    layers = [keras.Input((4,)), keras.layers.Dense(3, name="logits")]
    return keras.Sequential(layers)


def test_a_sparse_checkpoint_goes_there_and_back(place):
    dense = model()
    path = f"{place}/model.sparse"
    save_sparse(dense, path)
    again = load_sparse(path)
    for ours, theirs in zip(again.get_weights(), dense.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(FileNotFoundError, match="missing.sparse"):
        load_sparse(f"{place}/missing.sparse")


def holdout():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    y = (np.arange(60) % 3).astype("int32")
    return experiments.data.Holdout(
        (x, y), 0.2, test=(x, y), batch_size=16, shuffle=False, augment=False
    )


def network(input_shape, num_classes, mean, std, seed):
    keras.utils.set_random_seed(seed)
    return model()


def test_a_run_there_ends_as_one_on_a_disk(on_s3, tmp_path):
    places = [tmp_path / "run", f"{on_s3}/run"]
    for run_dir in places:
        train = experiments.Train(holdout(), network, epochs=2)
        train.run(run_dir, verbose=False)
    disk, store = map(files.path, places)
    left = {x.name for x in disk.iterdir()}
    assert {x.name for x in store.iterdir()} == left - {".lock"}
    log = (disk / "metrics.jsonl").read_bytes()
    assert (store / "metrics.jsonl").read_bytes() == log
    for ours, theirs in zip(
        files.load_model(store / "model.keras").get_weights(),
        files.load_model(disk / "model.keras").get_weights(),
    ):
        np.testing.assert_array_equal(ours, theirs)
    # Exports and pages of it, there as well.
    [report] = export_run(f"{on_s3}/run", ("sparse",))
    assert report.path == f"{on_s3}/run/exports/model.sparse"
    load_sparse(report.path)
    page = write_page([store, disk], f"{on_s3}/both.html")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert write_page(store) == store / "report.html"


@pytest.mark.parametrize("other", ["memory://b/run", "runs/a"])
def test_runs_without_a_common_place_need_one_for_their_page(other):
    for folders in (["memory://a/run", other], [other, "memory://a/run"]):
        with pytest.raises(ValueError, match="must share a bucket, or a disk"):
            default_path([files.path(folder) for folder in folders])


def test_sets_of_a_lottery_are_read_from_there(place):
    ids = np.arange(6)
    sets = PracSets("data", ids, [ids[:4]], [], [], {})
    sets.save(f"{place}/prac_sets.npz")
    again = PracSets.load(f"{place}/prac_sets.npz")
    np.testing.assert_array_equal(again.ids[0], ids[:4])


def test_data_are_copied_once_and_again_when_they_change(
    place, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = loading.SHIPPED_DATA_DIR / "fashion_mnist_mini"
    there = files.path(f"{place}/data/fashion_mnist_mini")
    for file in here.rglob("*"):
        if file.is_file():
            name = file.relative_to(here).as_posix()
            files.write_bytes(there / name, file.read_bytes())
    mini = "fashion_mnist_mini", "test[:5]"
    x, y = loading.load_arrays(*mini, f"{place}/data")
    ours, labels = loading.load_arrays(*mini)
    np.testing.assert_array_equal(x, ours)
    np.testing.assert_array_equal(y, labels)
    copy = files.copy_of(there)
    made = copy.stat().st_mtime_ns
    assert files.copy_of(there).stat().st_mtime_ns == made
    files.write_bytes(there / "more", b"1")
    assert (files.copy_of(there) / "more").read_bytes() == b"1"
    with pytest.raises(FileNotFoundError, match="'mnist' is not in"):
        loading.load_arrays("mnist", "test", f"{place}/data")
