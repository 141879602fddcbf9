"""Figures of files before and after: accuracy, bytes, time, memory, FLOPs."""

import dataclasses

from keras_app import graph
from keras_app.compression import costs
from keras_app.compression import files
from keras_app.compression import scoring
from keras_app.experiments.compress.examples import count_of


def of_dense(learner):
    """Returns the figures of the dense file, but for its time."""
    content = learner.dense_content()
    model = learner.experiment.model
    return _figures(learner, content, model)


def of_both(learner, content):
    """Returns the figures of the dense and of the compressed file.

    Args:
        learner: The `Compressing`.
        content: The bytes of the compressed file.
    """
    dense, own = files.in_turns([learner.dense_content(), content])
    before = {**learner.dense, "milliseconds": dense}
    after = {
        **_figures(learner, content, learner.model),
        "milliseconds": own,
    }
    return before, after


def as_reported(exported, learner):
    """Returns the `ExportReport` with the figures of the compression.

    So that there is one figure for one thing.

    Args:
        exported: The `ExportReport` of the compressed file.
        learner: The `Compressing`, which has measured both files.
    """
    dense, own = learner.dense, learner.reached
    validation = learner.experiment.validation_data
    judged = own["accuracy"] is not None
    baseline = {
        "bytes": dense["bytes"],
        "median_ms": dense["milliseconds"],
        "least_ms": dense["milliseconds"],
        "spread_ms": exported.latency_spread_ms,
        "threads": 1,
    }
    if judged:
        baseline["accuracy"] = dense["accuracy"]
    return dataclasses.replace(
        exported,
        latency_ms=own["milliseconds"],
        latency_least_ms=own["milliseconds"],
        accuracy=own["accuracy"],
        evaluated=count_of(validation) if judged else None,
        references={**exported.references, "baseline": baseline},
    )


def point(figures):
    """What the front shows of figures."""
    return {name: figures.get(name) for name in ("accuracy", "milliseconds")}


def accuracy_of(learner, content, model):
    """Returns the accuracy of a file on the validation data, or `None`."""
    return _judged(learner, content, model).get("accuracy")


def _figures(learner, content, model):
    flops = costs.flops(model) if graph.is_graph(model) else None
    return {
        **_judged(learner, content, model),
        **files.figures_of(content),
        "flops": flops,
        "parameters": int(model.count_params()),
        "milliseconds": None,
    }


def _judged(learner, content, model):
    """`{"accuracy", "loss"}` on the validation data, as far as they are known.

    What the file gives is judged, not what the model does.
    """
    data = learner.experiment.validation_data
    if data is None:
        return {"accuracy": None, "loss": None}
    x, y = data[0], scoring.only(data[1])
    outputs = files.outputs_of(content, model, x)
    if len(outputs) != 1 or not hasattr(y, "shape"):
        return {"accuracy": None, "loss": None}
    loss = learner.experiment.recipe.loss
    return {
        "accuracy": scoring.accuracy(outputs[0], y, loss),
        "loss": scoring.mean_loss(loss, outputs[0], y),
    }
