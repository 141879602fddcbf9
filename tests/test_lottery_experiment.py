"""experiments.Lottery: rounds, PrAC sets, tickets, resuming, import."""

import json

import keras
import numpy as np
import pytest

from keras_app import lottery as lottery_lib
from keras_app import masks
from keras_app import pruners
from keras_app.experiments import Lottery
from keras_app.experiments.data import Holdout
from keras_app.experiments.run.folder import RunFolder
from keras_app.optimizers import CoupledSGD


def tiny_data(seed=0):
    generator = np.random.default_rng(1)
    y = generator.integers(0, 3, 96).astype("int32")
    x = generator.normal(size=(96, 6, 6, 1)) + y[:, None, None, None]
    x = x.astype("float32")
    return Holdout(
        (x, y),
        validation_fraction=0.25,
        test=(x[:24], y[:24]),
        batch_size=16,
        seed=seed,
    )


def tiny_model(input_shape, num_classes, mean, std, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Conv2D(4, 3, name="deep"),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes, name="logits"),
        ],
        name="tiny",
    )


# 4 * 9 + 16 * 9 weights of convolutions.
TOTAL = 180


def search(folder, **kwargs):
    settings = {
        "optimizer": lambda: CoupledSGD(0.05),
        "rounds": 3,
        "rate": 0.25,
        "epochs": 4,
        "milestones": (3,),
        "rewind_epoch": 0,
        "evaluate": (2,),
        "on_empty": "keep",
        **kwargs,
    }
    resume = settings.pop("resume", False)
    experiment = Lottery(tiny_data, tiny_model, **settings)
    return experiment.run(folder, resume, verbose=False)


def events(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


@pytest.fixture(scope="module")
def prac(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lottery") / "prac"
    keras.utils.set_random_seed(0)
    return folder, search(folder, methods=("prac", "vanilla"))


def test_each_round_prunes_the_rounded_share_of_what_remains(prac):
    _, summary = prac
    # 180, 180 - 45 = 135, 135 - round(33.75) = 101.
    for method in ("prac", "vanilla"):
        rounds = summary["methods"][method]["rounds"]
        kept = [round(row["density"] * TOTAL) for row in rounds]
        assert kept == [180, 135, 101]


def test_sets_are_the_unions_and_schedules_follow_their_size(prac):
    folder, summary = prac
    rounds = summary["methods"]["prac"]["rounds"]
    assert rounds[0]["set_size"] == 72
    assert rounds[0]["critical_for_pruning"] == 0
    sets = lottery_lib.PracSets.load(folder / "prac_sets.npz")
    for before, row, after in zip(rounds, rounds[1:], range(1, 3)):
        joined = np.union1d(
            sets.training_ids[after - 1], sets.pruning_ids[after - 1]
        )
        if len(joined):
            np.testing.assert_array_equal(sets.ids[after], joined)
        assert row["set_size"] == before["next_set_size"]
        assert row["epochs_run"] <= max(1, 4 * row["set_size"] // 72)
        assert np.isin(sets.ids[after], tiny_data().train_ids).all()


def test_the_account_is_that_of_the_epochs_run(prac):
    _, summary = prac
    rounds = summary["methods"]["prac"]["rounds"]
    steps = [r["epochs_run"] * -(-r["set_size"] // 16) for r in rounds]
    account = summary["methods"]["prac"]["account"]
    assert account["iterations"] == steps
    # The ticket of two prunings needs two rounds; vanilla ones have 20 steps.
    saved = 100 * (1 - sum(steps[:2]) / 40)
    assert summary["methods"]["prac"]["saving_percent"] == pytest.approx(saved)
    assert summary["methods"]["vanilla"]["saving_percent"] == 0


def test_the_page_shows_tickets_sets_and_the_hardest_examples(prac):
    folder, _ = prac
    page = (folder / "report.html").read_text()
    for title in (
        "Accuracy of the tickets",
        "Cost of finding them",
        "Examples of each round",
        "The hardest examples",
    ):
        assert title in page
    with np.load(folder / "hardest.npz") as hardest:
        assert hardest["images"].shape[1:] == (6, 6, 1)
        assert (np.diff(hardest["counts"]) <= 0).all()
        assert np.isin(hardest["ids"], tiny_data().train_ids).all()


def test_tickets_are_judged_on_all_data(prac):
    folder, summary = prac
    (judged,) = events(folder, "ticket")
    assert (judged["prunings"], judged["epochs_run"]) == (2, 4)
    (ticket,) = summary["methods"]["prac"]["tickets"]
    assert ticket["accuracies"] == [judged["test_accuracy"]]
    assert summary["accuracy"] == ticket["accuracy"]
    assert summary["effective_density"] == pytest.approx(101 / TOTAL)
    values = keras.models.load_model(folder / "model.keras").get_weights()
    zeros = sum(int(np.sum(value == 0)) for value in values)
    share = zeros / sum(value.size for value in values)
    assert judged["sparsity_all"] == pytest.approx(share)
    assert summary["sparsity_all"] == pytest.approx(share)
    # On all data the rounds are the tickets' trainings.
    prunings = [t["prunings"] for t in summary["methods"]["vanilla"]["tickets"]]
    assert prunings == [0, 1, 2]


def nonzeros(folder):
    model = keras.models.load_model(folder / "model.keras")
    kernels = [model.get_layer(n).get_weights()[0] for n in ("conv", "deep")]
    return sum(int(np.count_nonzero(kernel)) for kernel in kernels)


@pytest.mark.backend_free
def test_the_saved_ticket_is_as_sparse_as_it_says(prac, tmp_path):
    assert nonzeros(prac[0]) == 101
    # A denser ticket than the search ended with.
    search(tmp_path / "run", methods="prac", evaluate=(1,), epochs=2)
    assert nonzeros(tmp_path / "run") == 135


def test_methods_share_their_dense_round(prac):
    _, summary = prac
    first = [summary["methods"][m]["rounds"][0] for m in ("prac", "vanilla")]
    assert first[0]["test_accuracy"] == first[1]["test_accuracy"]


class Killed(Exception):
    """Stands for a process that ends."""


class Killer:
    """Ends a search after one of its checkpoints."""

    def __init__(self, monkeypatch, folder):
        self.monkeypatch, self.folder = monkeypatch, folder
        self.save = RunFolder.save_checkpoint

    def kill_at(self, stage, epoch):
        """Stages are the rounds and then the tickets; epoch 0: before it."""

        def save(folder, arrays, meta):
            self.save(folder, arrays, meta)
            if (meta["stage"], meta["epoch"]) == (stage, epoch):
                raise Killed

        self._search(save)

    def kill_before_a_method_is_done(self):
        def save(folder, arrays, meta):
            if not arrays:  # the checkpoint between two methods
                raise Killed
            self.save(folder, arrays, meta)

        self._search(save)

    def _search(self, save):
        with self.monkeypatch.context() as patch:
            patch.setattr(RunFolder, "save_checkpoint", save)
            with pytest.raises(Killed):
                search(self.folder, methods=("prac", "vanilla"), resume=True)


def test_a_search_killed_four_times_ends_like_one_that_was_not(
    prac, tmp_path, monkeypatch
):
    killer = Killer(monkeypatch, tmp_path)
    killer.kill_at(0, 2)  # within the dense round
    killer.kill_at(1, 0)  # between two rounds
    killer.kill_at(3, 1)  # within the training of a ticket
    killer.kill_before_a_method_is_done()
    again = search(tmp_path, methods=("prac", "vanilla"), resume=True)
    path, whole = prac
    assert again["methods"] == whole["methods"]
    for name in ("model.keras", "model_vanilla.keras"):
        models = [keras.models.load_model(p / name) for p in (tmp_path, path)]
        for a, b in zip(*(m.get_weights() for m in models), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.backend_free
def test_rewinding_returns_weights_and_statistics(tmp_path, monkeypatch):
    starts, seen = [], []
    snapshot, rewind = lottery_lib.snapshot, lottery_lib.rewind

    def keep(model):
        starts.append(snapshot(model))
        return starts[-1]

    def look(model, start):
        rewind(model, start)
        seen.append([w.copy() for w in model.get_weights()])

    monkeypatch.setattr(lottery_lib, "snapshot", keep)
    monkeypatch.setattr(lottery_lib, "rewind", look)
    search(tmp_path / "run", rounds=2, rewind_epoch=1)
    # Before anything, and after the second epoch of the first round.
    for start, weights in zip(starts[-2:], seen, strict=True):
        for a, b in zip(start.values(), weights, strict=True):
            # The second time under a mask.
            np.testing.assert_array_equal(np.where(b == 0, 0, a), b)
    assert sum(np.count_nonzero(w) for w in seen[1] if w.ndim == 4) == 135


@pytest.mark.backend_free
@pytest.mark.parametrize("ticket", ["lt", "pt"])
def test_other_starts(tmp_path, ticket):
    summary = search(tmp_path / "run", ticket=ticket, rounds=2, epochs=2)
    assert summary["methods"]["vanilla"]["rounds"][1]["density"] == 0.75


@pytest.mark.backend_free
def test_sets_of_one_network_are_used_by_another(prac, tmp_path):
    source, _ = prac
    sets = lottery_lib.PracSets.load(source / "prac_sets.npz")
    summary = search(
        tmp_path / "run",
        methods="prac",
        sets=source / "prac_sets.npz",
        set_mode="final",
        evaluate=(),
        rounds=2,
        epochs=2,
    )
    sizes = [row["set_size"] for row in summary["methods"]["prac"]["rounds"]]
    assert sizes == [72, len(sets.ids[-1])]


def test_sets_of_other_data_are_refused(prac, tmp_path):
    source, _ = prac
    sets = lottery_lib.PracSets.load(source / "prac_sets.npz")
    with pytest.raises(ValueError, match="of the data"):
        sets.check("0" * 64, tiny_data().train_ids)
    with pytest.raises(ValueError, match="ids of the sets"):
        sets.check(sets.fingerprint, tiny_data().train_ids[:5])
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"no file of ours")
    with pytest.raises(ValueError, match="broken.npz"):
        lottery_lib.PracSets.load(broken)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("pruner", "kept"),
    [
        (lambda **k: pruners.SaliencyPruner(scorer="snip", **k), 135),
        (
            lambda **k: pruners.MagnitudePruner(
                structure=masks.Channel(axis=-1), **k
            ),
            None,
        ),
    ],
)
def test_other_scores_and_structures_take_the_place_of_magnitude(
    tmp_path, pruner, kept
):
    summary = search(
        tmp_path / "run", pruner=pruner, rounds=2, epochs=1, milestones=()
    )
    density = summary["methods"]["vanilla"]["rounds"][1]["density"]
    if kept is not None:
        assert round(density * TOTAL) == kept
        return
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    alive = []
    for name in ("conv", "deep"):
        kernel = model.get_layer(name).get_weights()[0]
        alive += list((kernel != 0).any(axis=(0, 1, 2)))
        assert (kernel[..., alive[-4:]] != 0).all()
    assert sum(alive) == 6  # of eight channels


@pytest.mark.backend_free
def test_the_constant_rule_takes_a_fixed_share(tmp_path):
    summary = search(
        tmp_path / "run",
        methods="prac",
        select_examples="constant",
        data_rate=0.5,
        use_pruning_examples=False,
        iteration_scaling="linear",
        early_stop=False,
        evaluate=(),
        rounds=2,
        epochs=2,
    )
    rounds = summary["methods"]["prac"]["rounds"]
    assert [row["set_size"] for row in rounds] == [72, 36]
    assert [row["epochs_run"] for row in rounds] == [2, 2]


@pytest.mark.backend_free
def test_a_round_stops_once_the_mask_has_settled(tmp_path):
    summary = search(
        tmp_path / "run",
        methods="prac",
        eps=1.0,
        queue_length=1,
        require_first_exceed=False,
        rewind_epoch=2,
        evaluate=(),
        rounds=1,
    )
    (row,) = summary["methods"]["prac"]["rounds"]
    # The distance of epoch 1 would do, but the start lies behind epoch 2.
    assert (row["epochs_run"], row["stopped_early"]) == (3, True)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"ticket": "rewind_lt", "rewind_epoch": 4}, "rewind_epoch=4"),
        ({"ticket": "pt", "methods": "prac"}, "ticket='pt'"),
        ({"ticket": "winning"}, "ticket='winning'"),
        ({"rate": 1.0}, "rate=1.0"),
        ({"eps": 0.0, "methods": "prac"}, "eps=0.0"),
        ({"eps": 1.5}, "eps=1.5"),
        ({"queue_length": 0}, "queue_length=0"),
        ({"forgetting_threshold": -1}, "forgetting_threshold=-1"),
        ({"rounds": 0}, "rounds=0"),
        ({"methods": ("imp",)}, "imp"),
        ({"evaluate": (9,), "methods": "prac"}, "9"),
        ({"select_examples": "all"}, "select_examples='all'"),
        ({"iteration_scaling": "none"}, "iteration_scaling='none'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path, arguments, match
):
    with pytest.raises(ValueError, match=match):
        search(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
def test_a_rate_that_prunes_nothing_says_so(tmp_path):
    with pytest.raises(ValueError, match="rate=0.001 of 180"):
        search(tmp_path / "run", rate=0.001, epochs=1, rounds=1)


@pytest.mark.backend_free
def test_an_empty_set_says_so(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        search(
            tmp_path / "run",
            methods="prac",
            forgetting_threshold=300_000,
            on_empty="raise",
            rounds=2,
            epochs=1,
        )
