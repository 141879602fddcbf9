"""Pruning schedules: maps from a training step to a sparsity.

A schedule is a callable `step -> (should_prune, sparsity)`, the convention of
tfmot, whose own schedule objects are accepted wherever one of these is.

Steps may be shares of the training, floats from 0.0 to 1.0: see
`PruningSchedule`.
"""

import abc
import bisect
import dataclasses
import itertools
import math
import numbers
from typing import dataclass_transform

import keras
import numpy as np

from keras_app.checks import check_int
from keras_app.checks import check_list
from keras_app.checks import check_number
from keras_app.checks import check_sparsity
from keras_app.timing import check_in_steps
from keras_app.timing import check_time
from keras_app.timing import comparable
from keras_app.timing import PruningSchedule


# Fields are the arguments; two schedules stay two.
@dataclass_transform(eq_default=False)
def _arguments(cls):
    return dataclasses.dataclass(eq=False, repr=False)(cls)


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class ConstantSparsity(PruningSchedule):
    """One sparsity from `begin_step` on, re-applied every `frequency` steps.

    Args:
        target_sparsity: Sparsity in [0, 1).
        begin_step: First step that prunes, >= 0; or, as the next two, a share
            of the training, a float from 0.0 to 1.0.
        end_step: Last step that may prune; -1 for no end. Defaults to `-1`.
        frequency: Steps between two updates, >= 1. Defaults to `100`.

    Example:

    >>> schedule = ConstantSparsity(0.5, begin_step=10, frequency=5)
    >>> schedule(10), schedule(11), schedule(15)
    ((True, 0.5), (False, 0.5), (True, 0.5))

    Reference: the schedule of the same name in tfmot; differs: none known.
    """

    target_sparsity: float
    begin_step: int | float
    end_step: int | float = -1
    frequency: int | float = 100

    _timed = ("begin_step", "end_step", "frequency")
    _ends_with = "target_sparsity"

    def __post_init__(self):
        self._check(check_sparsity, "target_sparsity")
        self._check(check_time, "begin_step", minimum=0)
        self._check(check_time, "end_step", minimum=-1)
        self._check(check_time, "frequency", minimum=1)
        begin, end = self.begin_step, self.end_step
        if end != -1 and comparable(begin, end) and end < begin:
            raise ValueError(
                "`end_step` must be -1 or >= `begin_step`. Received: "
                f"end_step={self.end_step}, begin_step={self.begin_step}"
            )

    def __call__(self, step: int) -> tuple[bool, float]:
        due = self._should_prune_in_step(
            step, self.begin_step, self.end_step, self.frequency
        )
        return due, self.target_sparsity


@_arguments
class _Between(PruningSchedule):
    """From one sparsity to another, in the steps between two."""

    initial_sparsity: float
    final_sparsity: float
    begin_step: int | float
    end_step: int | float = dataclasses.field()  # without the default above

    _timed = ("begin_step", "end_step")
    _ends_with = "final_sparsity"

    def __post_init__(self):
        self._check(check_sparsity, "initial_sparsity", "final_sparsity")
        self._check(check_time, "begin_step", minimum=0)
        self._check(check_time, "end_step", minimum=1)


class _Ramp(_Between):
    """Along a curve, in updates every `frequency` steps: a subclass's field."""

    _timed = (*_Between._timed, "frequency")

    def __post_init__(self):
        super().__post_init__()
        self._check(check_time, "frequency", minimum=1)
        begin, end = self.begin_step, self.end_step
        if comparable(begin, end) and end <= begin:
            raise ValueError(
                "`end_step` must be > `begin_step`. Received: "
                f"end_step={self.end_step}, begin_step={self.begin_step}"
            )

    @abc.abstractmethod
    def _sparsity_at(self, progress):
        """Returns the sparsity at a progress strictly between 0 and 1."""

    def __call__(self, step: int) -> tuple[bool, float]:
        due = self._should_prune_in_step(
            step, self.begin_step, self.end_step, self.frequency
        )
        # The ends are returned as they were given: a curve would round them,
        # and one bit less may be one weight less.
        if step <= self.begin_step:
            return due, self.initial_sparsity
        if step >= self.end_step:
            return due, self.final_sparsity
        progress = (step - self.begin_step) / (self.end_step - self.begin_step)
        return due, self._sparsity_at(progress)


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class PolynomialDecay(_Ramp):
    """Sparsity goes from `initial_sparsity` to `final_sparsity`, as a power.

        s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_n - t_0))^power    (eq. 1)

    With `power=3` it rises fast at first, while there is most to spare, and
    slowly at the end; `power=1` is the linear schedule. It may fall, for
    pruners that bring weights back, such as `STE`; under others what is pruned
    stays pruned.

    The schedule itself prunes at `begin_step + i * frequency` only, as in
    tfmot. Pruners add one update at `end_step`, so that the final sparsity is
    reached also where `frequency` does not divide the interval.

    Args:
        initial_sparsity: Sparsity at `begin_step`, in [0, 1).
        final_sparsity: Sparsity from `end_step` on, in [0, 1).
        begin_step: First step that prunes, >= 0; or, as `end_step` and
            `frequency`, a share of the training, a float from 0.0 to 1.0.
        end_step: Step at which the final sparsity is reached, > `begin_step`.
        power: Exponent, > 0. Defaults to `3`.
        frequency: Steps between two updates, >= 1. Defaults to `100`.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=200)
    >>> [round(schedule(step)[1], 3) for step in (0, 100, 200)]
    [0.0, 0.7, 0.8]
    >>> linear = PolynomialDecay(0.0, 0.8, 0, 200, power=1)
    >>> [round(linear(step)[1], 3) for step in (0, 100, 200)]
    [0.0, 0.4, 0.8]
    >>> shares = PolynomialDecay(0.0, 0.8, begin_step=0.1, end_step=0.75)
    >>> shares.resolve(total_steps=2000).end_step
    1500

    Reference: [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), eq. 1.
    """

    power: float = 3
    frequency: int | float = 100

    def __post_init__(self):
        super().__post_init__()
        power = self.power
        if not isinstance(power, numbers.Real) or not power > 0:
            raise ValueError(f"`power` must be > 0. Received: power={power}")

    def _sparsity_at(self, progress):
        return self.final_sparsity + (
            self.initial_sparsity - self.final_sparsity
        ) * math.pow(1.0 - progress, self.power)


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class CosineDecay(_Ramp):
    """Sparsity goes from one value to the other along half a cosine.

        s(t) = s_f + (s_i - s_f) (1 + cos(pi (t - t_0) / (t_n - t_0))) / 2

    Slow at both ends and fastest in the middle: for training from scratch,
    where the first steps do not know yet which weights matter. Updates come
    at the steps of `PolynomialDecay`.

    Args:
        initial_sparsity, final_sparsity, begin_step, end_step, frequency: See
            `PolynomialDecay`.

    Example:

    >>> schedule = CosineDecay(0.0, 0.8, begin_step=0, end_step=200)
    >>> [round(schedule(step)[1], 3) for step in (0, 50, 100, 150, 200)]
    [0.0, 0.117, 0.4, 0.683, 0.8]

    Reference: the curve of learning rates in [Loshchilov and Hutter,
    2017](https://arxiv.org/abs/1608.03983), eq. 5, without restarts.
    """

    frequency: int | float = 100

    def _sparsity_at(self, progress):
        return self.final_sparsity + (
            self.initial_sparsity - self.final_sparsity
        ) * (0.5 * (1.0 + math.cos(math.pi * progress)))


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class ExponentialDecay(_Ramp):
    """The density falls by the same factor at every update.

        d(t) = d_i (d_f / d_i)^((t - t_0) / (t_n - t_0)),    s(t) = 1 - d(t)

    Each update removes the same share of what is left, as pruning in rounds
    does. Choose it for very high sparsities, where a step of one percent is
    a large part of the network. Updates come at the steps of
    `PolynomialDecay`.

    Args:
        initial_sparsity, final_sparsity, begin_step, end_step, frequency: See
            `PolynomialDecay`.

    Example:

    >>> schedule = ExponentialDecay(0.0, 0.99, begin_step=0, end_step=200)
    >>> [round(schedule(step)[1], 3) for step in (0, 50, 100, 150, 200)]
    [0.0, 0.684, 0.9, 0.968, 0.99]

    Reference: [Tanaka et al., 2020](https://arxiv.org/abs/2006.05467),
    algorithm 1. Differs: it prunes while the network trains.
    """

    frequency: int | float = 100

    def _sparsity_at(self, progress):
        initial, final = 1.0 - self.initial_sparsity, 1.0 - self.final_sparsity
        return 1.0 - initial * math.pow(final / initial, progress)


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class PiecewiseConstant(PruningSchedule):
    """Prunes at the steps of a list, to the sparsities of another.

        s(t) = sparsities[i] for steps[i] <= t < steps[i + 1],  0 before them

    For sparsities that were found by hand, or that follow drops of the
    learning rate.

    Args:
        steps: The steps that prune, >= 0 and rising; or shares of the
            training, floats from 0.0 to 1.0.
        sparsities: The sparsity at each of them, in [0, 1). None is below the
            one before it, because what is pruned stays pruned.

    Example:

    >>> schedule = PiecewiseConstant([100, 500], [0.5, 0.8])
    >>> [schedule(step) for step in (0, 100, 499, 500)]
    [(False, 0.0), (True, 0.5), (False, 0.5), (True, 0.8)]
    """

    steps: list[int | float]
    sparsities: list[float]

    _timed = ("steps",)
    _ends_with = "sparsities"

    def __post_init__(self):
        steps, sparsities = self.steps, self.sparsities
        self._check(check_list, "steps", check=check_time, minimum=0)
        self._check(check_list, "sparsities", check=check_sparsity)
        if not self.steps or len(self.steps) != len(self.sparsities):
            raise ValueError(
                "`steps` and `sparsities` must be equally long, and not empty. "
                f"Received: steps={steps}, sparsities={sparsities}"
            )
        pairs = itertools.pairwise(self.steps)
        if any(comparable(a, b) and b <= a for a, b in pairs):
            raise ValueError(f"`steps` must rise. Received: steps={steps}")
        if any(b < a for a, b in itertools.pairwise(self.sparsities)):
            raise ValueError(
                "`sparsities` must not fall: what is pruned stays pruned. "
                f"Received: sparsities={sparsities}"
            )
        self.begin_step = self.steps[0]
        self.end_step = self.steps[-1]

    def __call__(self, step: int) -> tuple[bool, float]:
        check_in_steps(self)
        reached = bisect.bisect_right(self.steps, step)
        if reached == 0:
            return False, 0.0
        return self.steps[reached - 1] == step, self.sparsities[reached - 1]


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class CyclicSparsity(_Between):
    """Sparse and dense phases in turn, and sparse in the end.

        s(t) = s_i                       for t < t_0: dense warm-up
        s(t) = s_f or s_i in turn        for t_0 <= t < t_n
        s(t) = s_f                       for t >= t_n

    From `begin_step` on each period begins with a sparse phase and ends with a
    dense one. The schedule prunes where a phase begins. Steps before `end_step`
    that are less than a period are added to the last dense phase. Choose it for
    `ACDC`: other pruners do not give back what they pruned.

    Args:
        initial_sparsity: Sparsity of the warm-up and of the dense phases, in
            [0, 1); usually 0.
        final_sparsity: Sparsity of the sparse phases and from `end_step` on, in
            [0, 1), > `initial_sparsity`.
        begin_step: First step of the first sparse phase, >= 0; or, as the next
            two, a share of the training, a float from 0.0 to 1.0.
        end_step: First step of the last sparse phase, which goes on to the end
            of the training; >= `begin_step + period`.
        period: Steps of a sparse and a dense phase together, >= 2.
        sparse_fraction: Share of each period that is sparse, in (0, 1), rounded
            to whole steps; both phases have at least one. Defaults to `0.5`.

    Example:

    >>> schedule = CyclicSparsity(0.0, 0.9, 10, 85, period=10)
    >>> [step for step in range(100) if schedule(step)[0]]
    [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 85]
    >>> [schedule(step)[1] for step in (9, 10, 15, 75, 84, 85, 99)]
    [0.0, 0.9, 0.0, 0.0, 0.0, 0.9, 0.9]

    Reference: [Peste et al., 2021](https://arxiv.org/abs/2106.12379); in epochs
    instead of steps, the example is their schedule for ImageNet.
    """

    period: int | float
    sparse_fraction: float = 0.5

    _timed = (*_Between._timed, "period")

    def __post_init__(self):
        super().__post_init__()
        self._check(check_time, "period", minimum=2)
        rule = {"rule": lambda x: 0 < x < 1, "words": "in (0, 1)"}
        self._check(check_number, "sparse_fraction", **rule)
        if self.final_sparsity <= self.initial_sparsity:
            raise ValueError(
                "`final_sparsity`, of the sparse phases, must be > "
                "`initial_sparsity`, of the dense ones. Received: "
                f"final_sparsity={self.final_sparsity}, "
                f"initial_sparsity={self.initial_sparsity}"
            )
        times = begin, end, period = self.begin_step, self.end_step, self.period
        # Sums of shares are rounded.
        if comparable(*times) and end < begin + period - 1e-9:
            raise ValueError(
                "`end_step` must be >= `begin_step + period`. Received: "
                f"end_step={end}, begin_step={begin}, period={period}"
            )

    def __call__(self, step: int) -> tuple[bool, float]:
        check_in_steps(self)
        if step < self.begin_step:
            return False, self.initial_sparsity
        if step >= self.end_step:
            return step == self.end_step, self.final_sparsity
        periods = (self.end_step - self.begin_step) // self.period
        passed = step - self.begin_step
        place = passed - min(passed // self.period, periods - 1) * self.period
        sparse_steps = round(self.sparse_fraction * self.period)
        sparse_steps = min(max(sparse_steps, 1), self.period - 1)
        is_sparse = place < sparse_steps
        return (
            place in (0, sparse_steps),
            self.final_sparsity if is_sparse else self.initial_sparsity,
        )


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class OneShot(PruningSchedule):
    """Prunes once, at `step`, to `sparsity`.

    Args:
        sparsity: Sparsity in [0, 1).
        step: The step that prunes, >= 0; or a share of the training, a float
            from 0.0 to 1.0. Defaults to `0`, before training.

    Example:

    >>> OneShot(0.9)(0), OneShot(0.9)(1)
    ((True, 0.9), (False, 0.9))
    """

    sparsity: float
    step: int | float = 0

    _timed = ("step",)
    _ends_with = "sparsity"

    def __post_init__(self):
        self._check(check_sparsity, "sparsity")
        self._check(check_time, "step", minimum=0)
        self.end_step = self.step

    def __call__(self, step: int) -> tuple[bool, float]:
        check_in_steps(self)
        return step == self.step, self.sparsity


@keras.saving.register_keras_serializable(package="keras_app")
@_arguments
class AnytimeSchedule(PruningSchedule):
    """The densities of Anytime Progressive Pruning, one per megabatch.

        d_t = base^(s_t),  s = num_megabatches points from 1 to level

    The step of this schedule is the index of the megabatch, counted from 0,
    not a training step.

    Args:
        num_megabatches: Number of megabatches n, >= 1.
        level: Sparsity level L, >= 1; the last density is `base ** level`.
        base: Density per level, in (0, 1). Defaults to `0.8`.
        progressive: `False` prunes to the last density at every megabatch,
            which is what the authors' code does under layerwise thresholds.
            Defaults to `True`.
        reference_compatible: With a single megabatch the authors' code prunes
            to `base`, so that `level` is never reached; `True` keeps that.
            Defaults to `False`: one megabatch gets `[base ** level]`.

    Example:

    >>> [round(d, 3) for d in AnytimeSchedule(4, level=4.5).densities]
    [0.8, 0.617, 0.475, 0.366]

    Reference: [Misra et al., 2022](https://arxiv.org/abs/2204.01640), section
    3. Differs: as `reference_compatible` says.
    """

    num_megabatches: int
    level: float
    base: float = 0.8
    progressive: bool = True
    reference_compatible: bool = False

    def __post_init__(self):
        self._check(check_int, "num_megabatches", minimum=1)
        level, base = self.level, self.base
        if not isinstance(level, numbers.Real) or not 1 <= level < math.inf:
            raise ValueError(
                "`level` must be >= 1: below 1 the density would rise from "
                f"megabatch to megabatch. Received: level={level}"
            )
        if not isinstance(base, numbers.Real) or not 0 < base < 1:
            raise ValueError(f"`base` must be in (0, 1). Received: base={base}")
        self.level = float(level)
        self.base = float(base)
        self.progressive = bool(self.progressive)
        self.reference_compatible = bool(self.reference_compatible)
        levels = np.linspace(1, self.level, self.num_megabatches)
        if self.num_megabatches == 1 and not self.reference_compatible:
            levels = np.array([self.level])
        if not self.progressive:
            levels = np.full(self.num_megabatches, self.level)
        # The authors take powers of an array, whose last bit differs between
        # processors, and int((1 - d) N) with it. Where two ways to compute
        # one differ, the smaller gives the counts that they recorded.
        self.densities = [
            min(self.base**s, math.exp(s * math.log(self.base)))
            for s in levels.tolist()
        ]
        if 1.0 - self.densities[-1] == 1.0:
            raise ValueError(
                "`level` must leave a density above zero. Received: "
                f"level={level}, base={base}"
            )
        self.end_step = self.num_megabatches - 1

    def __call__(self, step: int) -> tuple[bool, float]:
        inside = 0 <= step < self.num_megabatches
        last = self.num_megabatches - 1
        return inside, 1.0 - self.densities[min(max(step, 0), last)]
