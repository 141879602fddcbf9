"""Language models of KerasHub, untrained, by name."""

import inspect
from typing import Any

import keras
from keras import ops

from keras_app.checks import check_int
from keras_app.experiments.models import frame
from keras_app.experiments.models.lookup import hub
from keras_app.experiments.models.lookup import match_name
from keras_app.hints import Shape


def hub_causal_lm(
    name: str,
    input_shape: Shape,
    num_classes: int,
    mean: None = None,
    std: None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> keras.Model:
    """Any language model of KerasHub that predicts the next token, untrained.

    It maps tokens `(batch, length)` to logits `(batch, length, vocabulary)`.
    Needs the extra `hub`. The first weights are Keras's, and follow
    `keras.utils.set_random_seed`.

    Args:
        name: Name of a class of `keras_hub.models`, in upper or lower case,
            such as `"GPT2CausalLM"` or `"GemmaCausalLM"`.
        input_shape: `(length,)`, what a window of tokens has.
        num_classes: Size of the vocabulary.
        mean, std: `None`: tokens are not normalized.
        seed: Not used here.
        **kwargs: The configuration of the model's backbone.

    Raises:
        ImportError: KerasHub is not installed.
        ValueError: If `name` is unknown, or an argument out of its range.

    Example:

    ```python
    model = hub_causal_lm(
        "GPT2CausalLM",
        (128,),
        256,
        num_layers=2,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=256,
    )
    ```
    """
    frame.check_input_shape(input_shape, None)
    check_int("num_classes", num_classes, 1)
    if len(input_shape) != 1:
        raise ValueError(
            "`input_shape` must be (length,) of a window of tokens. Received: "
            f"input_shape={tuple(input_shape)}"
        )
    if mean is not None or std is not None:
        raise ValueError(
            "`mean` and `std` must be None for tokens. Received: "
            f"mean={mean}, std={std}"
        )
    tasks = {
        name: each
        for name, each in inspect.getmembers(hub().models, inspect.isclass)
        if name.endswith("CausalLM") and each.backbone_cls is not None
    }
    match = match_name(
        name, tasks, "a class of `keras_hub.models` that ends in CausalLM"
    )
    backbone = tasks[match].backbone_cls
    if "max_sequence_length" in inspect.signature(backbone).parameters:
        kwargs.setdefault("max_sequence_length", input_shape[0])
    backbone = backbone(vocabulary_size=num_classes, **kwargs)
    if set(backbone.input) != {"token_ids", "padding_mask"}:
        raise ValueError(
            "`name` must be a model that takes nothing but token_ids and "
            f"padding_mask. Received: name={name!r}, which takes "
            f"{', '.join(backbone.input)}"
        )
    # The task, because its configuration is one that keeps tied embeddings.
    task = tasks[match](backbone, preprocessor=None)
    tokens = keras.Input(input_shape, dtype="int32", name="token_ids")
    mask = ops.ones_like(tokens)
    logits = task({"token_ids": tokens, "padding_mask": mask})
    return keras.Model(tokens, logits, name=match.lower())
