"""Run folders of literal numbers, and what can be read off their pages."""

import html
import json
import re

from keras_app.experiments.page import write_page


def figures(accuracy, cer, density=1.0, **more):
    return {
        "accuracy": accuracy,
        "effective_density": density,
        "cer": cer,
        **more,
    }


def a_summary(methods, **more):
    main = next(iter(methods))
    return {
        "experiment": "anytime",
        "method": main,
        "accuracy": methods[main]["accuracy"],
        "effective_density": methods[main]["effective_density"],
        "seconds": 75.0,
        "seed": 0,
        "versions": {"keras": "3.15.1", "backend": "jax", "jax": "0.10.2"},
        "data": "tiny",
        "model": "convnet",
        "num_megabatches": 2,
        "epochs": 2,
        "level": 4.5,
        "missed": [],
        "methods": methods,
        **more,
    }


def an_epoch(method, megabatch, epoch):
    return {
        "event": "epoch",
        "method": method,
        "megabatch": megabatch,
        "epoch": epoch,
        "loss": 1.5 - 0.25 * epoch,
        "accuracy": 0.5 + 0.1 * epoch,
        "val_loss": 1.75 - 0.25 * epoch,
        "val_accuracy": 0.4 + 0.1 * epoch,
    }


def a_megabatch(method, number, misclassified, density):
    return {
        "event": "megabatch",
        "method": method,
        "megabatch": number,
        "target_density": density,
        "density": density,
        "density_all": density,
        "kept_parameters": 1000,
        "misclassified": misclassified,
        "test_accuracy": 1.0 - misclassified / 100,
        "best_epoch": 1,
        "best_val_accuracy": 0.5,
        "generalization_gap_last": 10.0,
        "generalization_gap_best": 9.5,
        "training_examples": 400,
        "forward_flops": 2_000_000_000,
        "forward_flops_sparse": 1_000_000_000.0,
        "layers": {"a/kernel": density, "b/kernel": density / 2},
    }


def a_run(folder, summary=None, events=(), config=None):
    folder.mkdir(parents=True)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if events:
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (folder / "metrics.jsonl").write_text(lines)
    if config is not None:
        (folder / "config.gin").write_text(config)
    return folder


def a_full_run(folder):
    """Two methods, two megabatches of two epochs."""
    events = [
        event
        for method, density in (("app", 0.5), ("dense", 1.0))
        for number, misclassified in ((0, 40), (1, 30))
        for event in (
            an_epoch(method, number, 0),
            an_epoch(method, number, 1),
            a_megabatch(method, number, misclassified, density),
        )
    ]
    methods = {
        method: figures(
            0.7,
            70,
            density,
            megabatches=[
                event
                for event in events
                if event["event"] == "megabatch" and event["method"] == method
            ],
        )
        for method, density in (("app", 0.5), ("dense", 1.0))
    }
    return a_run(folder, a_summary(methods), events)


def plain(text):
    """The text of a piece of HTML, tags dropped, plain spaces."""
    text = re.sub(r"<(small|br)[^>]*>", " ", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def table(written):
    """The first table: {row header: [cells]}, `head` the first line."""
    body = re.search(r"<table>(.*?)</table>", written, re.S).group(1)
    lines = re.findall(r"<tr.*?</tr>", body, re.S)
    cells = [
        [plain(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)]
        for line in lines
    ]
    return {"head": cells[0], **{line[0]: line[1:] for line in cells[1:]}}


def row(written, start):
    (found,) = [v for k, v in table(written).items() if k.startswith(start)]
    return found


def conclusion(written):
    found = re.findall(r'<ul class="conclusion">(.*?)</ul>', written, re.S)
    return [plain(text) for text in found]


def page_of(tmp_path, methods, **more):
    folder = a_run(tmp_path / "run", a_summary(methods, **more))
    return write_page([folder]).read_text()


def seeds(tmp_path, configs=(None, None, None), **more):
    """Three seeds, whose statistics are easy to take by hand."""
    numbers = [(0.60, 0.65, 100), (0.64, 0.65, 104), (0.68, 0.65, 111)]
    return [
        a_run(
            tmp_path / f"run{seed}",
            a_summary(
                {"app": figures(ours, cer, 0.5), "dense": figures(theirs, 90)},
                **{"seed": seed, **more},
            ),
            config=configs[seed],
        )
        for seed, (ours, theirs, cer) in enumerate(numbers)
    ]


def a_training(
    folder, method, accuracy, density, seed=0, optimizer=None, **more
):
    """A run of `experiments.Train`, as it is logged."""
    told = {
        "accuracy": accuracy,
        "effective_density": density,
        "initial_density": density,
        "sparsity_all": 0.9 * (1 - density),
    }
    event = {
        **{"event": "epoch", "method": method, "epoch": 0, "loss": 1.0},
        **{"accuracy": accuracy, "val_accuracy": accuracy, "lam": 0.5},
        **{"effective_density": density, "temperature": 2.0},
        "sparsity_all": told["sparsity_all"],
    }
    summary = a_summary(
        {method: told},
        experiment="train",
        seed=seed,
        settings={
            **{"parameters": 1000, "density": density, "seed": seed},
            "optimizer": optimizer or {"learning_rate": 0.1},
        },
        **more,
    )
    return a_run(folder, summary, [event])


def write_training(folder):
    return [a_training(folder, "Adam + RigL", 0.5, 0.1)]


def write_tickets(folder):
    rounds = [{"density": 0.4, "val_accuracy": 0.5, "hard_val_accuracy": 0.4}]
    return [
        a_training(folder, "ticket, sequential", 0.5, 0.1, rounds=rounds),
    ]


def write_lottery(folder):
    """The first round, which is dense, is logged as a round."""
    rounds = [
        {
            **{"density": 1.0, "test_accuracy": 0.6, "set_size": 100},
            "stopped_early": False,
        },
        {"density": 0.5, "test_accuracy": 0.5, "set_size": 50},
    ]
    tickets = [{"density": 0.5, "accuracy": 0.58, "accuracies": [0.58]}]
    prac = figures(0.58, None, 0.5, rounds=rounds, tickets=tickets)
    prac["account"] = {"cumulative": [10, 15]}
    summary = a_summary({"prac": prac}, experiment="lottery")
    return [a_run(folder, summary)]


def write_unfinished(folder):
    return [a_run(folder, events=[an_epoch("app", 0, 0)])]


def write_begun(folder):
    (a_run(folder) / "metrics.jsonl").touch()
    return [folder]


def write_seeds(folder):
    return [
        a_training(folder / f"seed_{seed}", "Adam + RigL", 0.5, 0.1, seed=seed)
        for seed in range(3)
    ]


def write_many(folder):
    return [
        a_training(folder / f"density_{i}", "Adam + RigL", 0.5, i / 20)
        for i in range(1, 13)
    ]
