"""Whether two run folders hold the same, bit for bit."""

import io
import json
import zipfile

import h5py
import numpy as np

from keras_app.experiments.run.folder import RunFolder

# Times differ, and what draws or measures them.
_NOT_COMPARED = ("report.html", "native.log", "tensorboard", ".lock")


def compare(folder, reference):
    """Returns `(differences, largest)`.

    `differences` are sentences on what is not equal to `reference`: the log,
    the summary without its time, the configuration, every variable of every
    model, arrays, the last checkpoint, which files there are. `largest` is the
    largest difference of two numbers of the models.
    """
    names, expected = (_names(path) for path in (folder, reference))
    differences, largest = [], 0.0
    if names != expected:
        differences.append(f"files: {names ^ expected}")
    for name in sorted(names & expected):
        ours, theirs = folder / name, reference / name
        if name == "summary.json":
            ours, theirs = (_timeless(path) for path in (ours, theirs))
            if ours != theirs:
                differences.append(name)
        elif name.endswith((".keras", ".npz")):
            found, distance = _differing(_arrays(ours), _arrays(theirs))
            differences += [f"{name}: {text}" for text in found]
            largest = max(largest, distance)
        elif (folder / name).is_file():
            if ours.read_bytes() != theirs.read_bytes():
                differences.append(name)
    return differences + _compare_checkpoints(folder, reference), largest


def _names(folder):
    names = {path.name for path in folder.iterdir()}
    # Kills damage no checkpoint, and leave no more of them.
    kept = {f"checkpoints/{p.name}" for p in folder.glob("checkpoints/*")}
    bounded = {f"{len(kept)} checkpoints"}
    return names.difference(_NOT_COMPARED) | bounded


def _timeless(path):
    summary = json.loads(path.read_text())
    del summary["seconds"]
    return summary


def _arrays(path):
    """Every array of a model or an .npz file."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    found = {}

    def take(name, node):
        if isinstance(node, h5py.Dataset):
            found[name] = node[()]

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content) as file:
            file.visititems(take)
    return found


def _differing(ours, theirs):
    """Names of arrays that are not equal in every bit; largest difference."""
    if list(ours) != list(theirs):
        return [f"arrays: {ours.keys() ^ theirs.keys()}"], float("inf")
    differing, largest = [], 0.0
    for name, array in ours.items():
        other = theirs[name]
        same = array.dtype == other.dtype and array.shape == other.shape
        if same and array.tobytes() == other.tobytes():
            continue
        differing.append(name)
        distance = float("inf")
        if same and array.dtype.kind in "fiub":
            a, b = array.astype("float64"), other.astype("float64")
            distance = float(np.max(np.abs(a - b)))
        largest = max(largest, distance)
    return differing, largest


def _compare_checkpoints(folder, reference):
    """The optimizer's state, too, is in the last checkpoint."""
    ours, theirs = (
        RunFolder(path).load_checkpoint() for path in (folder, reference)
    )
    differing, _ = _differing(ours[0], theirs[0])
    found = [f"checkpoint: {name}" for name in differing]
    for _, meta, _ in (ours, theirs):
        del meta["seconds"]
    if ours[1] != theirs[1]:
        found.append("checkpoint: plain values")
    return found + [f"checkpoint: {path} is damaged" for path in ours[2]]
