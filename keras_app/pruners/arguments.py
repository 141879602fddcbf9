"""What constructors of pruners take besides their own arguments.

Checkers and editors see here what a constructor hands on as `**kwargs`.
"""

from collections.abc import Mapping
from typing import TypedDict

from keras_app.hints import Distribution
from keras_app.hints import Filters
from keras_app.hints import OnMiss
from keras_app.hints import Scope
from keras_app.masks import Structure
from keras_app.scorers import BatchNormMode


class _Common(TypedDict, total=False):
    structure: Structure | None
    filters: Filters
    custom_sparsity: Mapping[str, float] | None
    on_miss: OnMiss


class PrunerArguments(_Common, total=False):
    """Of `Pruner`."""

    scope: Scope
    distribution: Distribution


class ScoredArguments(_Common, total=False):
    """Of `ScoredPruner`, but for the scope."""

    distribution: Distribution
    bn_mode: BatchNormMode | None
    samples_per_class: int
    seed: int


class DynamicArguments(_Common, total=False):
    """Of `Pruner`, but for the distribution."""

    scope: Scope


class GrowthArguments(DynamicArguments, total=False):
    """Of `DynamicPruner`, but for the share that is dropped."""

    distribution: Distribution | None
    seed: int


class GradientArguments(GrowthArguments, total=False):
    """Of `DynamicPruner`."""

    drop_fraction: float
