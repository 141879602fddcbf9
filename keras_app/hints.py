"""Types that many signatures share, by name.

Tensors and what Keras makes of them have no common type over the backends:
`Tensor` says to a reader what a checker cannot know.
"""

import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt

FilePath = str | os.PathLike[str]

# Of the backend: a `tf.Tensor`, a `jax.Array` or a `torch.Tensor`.
Tensor = Any

# What `fit` takes: arrays `x`, a pair `(x, y)`, or batches of such.
Data = Iterable[Any] | keras.utils.PyDataset

# What a model takes: an array, or several in a list or by name.
Inputs = npt.ArrayLike | Sequence[npt.ArrayLike] | Mapping[str, npt.ArrayLike]

# A schedule of this package, of tfmot, or a function.
Schedule = Callable[[int], tuple[bool, float]]

# Regexes that are searched in `variable.path`, or a rule; `None`: the default.
Filters = str | Sequence[str] | Callable[[keras.Variable], bool] | None

Scope = Literal["layer", "global"]
OnMiss = Literal["warn", "raise", "ignore"]
Quantize = Literal["float16", "dynamic", "int8"]
Ties = Literal["exact", "le"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Distribution = (
    Literal["uniform", "erk"]
    | Callable[[dict[str, Shape], float], Mapping[str, float]]
)

# By the path of the variable.
Variables = dict[str, keras.Variable]
Arrays = dict[str, np.ndarray]

# What `state` gives and `restore` takes: plain values, and arrays by name.
State = tuple[dict[str, Any], Arrays]

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule
Loss = str | keras.losses.Loss | Callable[[Any, Any], Any]
