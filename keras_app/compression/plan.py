"""Which widths: the least important channels for what they cost.

    repeat: take `step` channels from the group with the least
            importance lost / cost saved,  until the cost is within the budget

with costs that are sums over layers, each of how many channels the layer reads
and how many it gives. At the end channels come back, the most important for
their cost first, as long as the budget holds.

References: [Yang et al., 2018](https://arxiv.org/abs/1804.03230), which takes
the group by accuracy after a short training;
[Shen et al., 2021](https://arxiv.org/abs/2110.10811), whose importance per
millisecond this is. Differs: greedy, where HALP solves a knapsack.
"""

import dataclasses

import numpy as np

# So many widths `search` measures, besides those of the dense and of the
# smallest model.
MOST = 5


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels, or heads, that compete with each other.

    Attributes:
        name: Its name, the path of the first kernel that makes them.
        importance: Importance of each unit, in any order.
        step: How many are taken at once, >= 1.
    """

    name: str
    importance: np.ndarray
    step: int

    @property
    def size(self):
        """How many there are."""
        return len(self.importance)

    @property
    def order(self):
        """The units, the most important first; ties keep the lower index."""
        return np.argsort(-np.asarray(self.importance), kind="stable")

    def widths(self):
        """All widths that it can have, rising: multiples of `step`, and all.

        >>> Group("a", np.ones(20), 8).widths()
        [8, 16, 20]
        """
        return [*range(self.step, self.size, self.step), self.size]

    def lost(self, width):
        """Importance that is lost with all units but the first `width`."""
        kept = np.asarray(self.importance, "float64")[self.order][:width]
        return float(np.sum(self.importance) - kept.sum())


@dataclasses.dataclass(frozen=True)
class Side:
    """How many channels a layer has on one side, for given widths.

    Attributes:
        fixed: Those that belong to no group.
        counts: `{group: array}`: how many of them the first w units of the
            group make up, for w from 0 on.
    """

    fixed: int
    counts: dict

    def at(self, widths):
        """The number of channels."""
        return self.fixed + sum(
            int(counts[widths[name]]) for name, counts in self.counts.items()
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer whose cost hangs on widths.

    Attributes:
        name: Of the layer.
        inputs, outputs: A `Side` each.
        cost: A function `(channels read, channels given) -> cost`.
    """

    name: str
    inputs: Side
    outputs: Side
    cost: object

    def at(self, widths):
        """Its cost with these widths."""
        return self.cost(self.inputs.at(widths), self.outputs.at(widths))

    @property
    def groups(self):
        """The names of the groups that it hangs on."""
        return {*self.inputs.counts, *self.outputs.counts}


class Planner:
    """Finds widths whose cost is within a budget.

    Args:
        groups: The `Group`s.
        places: The `Place`s.
        constant: Cost of what no width changes. Defaults to `0.0`.

    Attributes:
        start: `{group: width}` to take channels from: at first all.
    """

    def __init__(self, groups, places, constant=0.0):
        self.groups = {group.name: group for group in groups}
        self.places = places
        self.constant = constant
        self.whole = {name: group.size for name, group in self.groups.items()}
        self.start = self.whole
        self._near = {
            name: [place for place in places if name in place.groups]
            for name in self.groups
        }

    @property
    def least(self):
        """`{group: width}` of the smallest model."""
        return {name: g.widths()[0] for name, g in self.groups.items()}

    def cost(self, widths):
        """The cost with these widths."""
        return self.constant + sum(place.at(widths) for place in self.places)

    def plan(self, budget):
        """Returns `{group: width}` with a cost within `budget`.

        Args:
            budget: The cost not to exceed.

        Returns:
            The widths; those of the smallest model if even that costs more.
        """
        widths = dict(self.start)
        removed = []
        while self.cost(widths) > budget:
            steps = [
                (self._price(name, smaller, widths), name, smaller)
                for name in self.groups
                if (smaller := self._next(name, widths[name])) is not None
            ]
            if not steps:
                return widths
            _, name, smaller = min(steps)
            removed.append((name, widths[name]))
            widths[name] = smaller
        return self._give_back(widths, removed, budget)

    def _next(self, name, width):
        smaller = [w for w in self.groups[name].widths() if w < width]
        return smaller[-1] if smaller else None

    def _saved(self, name, width, widths):
        near, changed = self._near[name], {**widths, name: width}
        return sum(p.at(widths) - p.at(changed) for p in near)

    def _price(self, name, width, widths):
        """Importance lost for each unit of cost that is saved."""
        group = self.groups[name]
        saved = self._saved(name, width, widths)
        lost = group.lost(width) - group.lost(widths[name])
        return lost / saved if saved > 0 else np.inf

    def _give_back(self, widths, removed, budget):
        """Brings back what the last steps took more than was needed."""
        while True:
            fitting = []
            for name, width in dict.fromkeys(removed):
                # Only the step that was taken last can be undone.
                if self._next(name, width) != widths[name]:
                    continue
                wider = {**widths, name: width}
                if self.cost(wider) <= budget:
                    price = self._price(name, widths[name], wider)
                    fitting.append((price, name, width))
            if not fitting:
                return widths
            _, name, width = max(fitting)
            widths = {**widths, name: width}


@dataclasses.dataclass(frozen=True)
class Found:
    """Widths, and what was measured of them.

    Attributes:
        widths: `{group: width}`.
        amount: What was measured, in the unit of the target.
        dense: The same of the dense model, measured along with it.
    """

    widths: dict
    amount: float
    dense: float


def search(planner, measure, target, tolerance, most=MOST):
    """Finds widths that *measure* as asked; costs only lead the way.

    The budget is corrected by what was measured, and widths are chosen again:

        budget <- budget * (asked / measured)

    Args:
        planner: A `Planner`, whose costs are in any unit.
        measure: A function `widths -> Found`.
        target: The `targets.Target`.
        tolerance: How far, as a share, a measurement may exceed what is asked.
        most: How many widths are measured at the most, besides those of the
            dense and of the smallest model. Defaults to `5`.

    Returns:
        The `Found` that comes nearest to what was asked without exceeding it.

    Raises:
        ValueError: The dense model fulfils it already, or no widths do; then
            the message names the nearest target that can be reached.
    """
    seen = {}

    def measured(widths):
        key = tuple(widths.values())
        if key not in seen:
            seen[key] = measure(widths)
        return seen[key]

    def fits(found):
        limit = target.limit(found.dense)
        return found.amount <= limit * (1 + tolerance)

    dense = measured(planner.start)
    if dense.amount <= target.limit(dense.dense):
        raise ValueError(
            "`target` must ask for less than the dense model takes. Received: "
            f"target='{target}', and the dense model has "
            f"{target.text(target.of(dense.amount, dense.dense))} already"
        )
    whole = planner.cost(planner.start)
    budget = whole * target.limit(dense.dense) / dense.amount
    good = None
    # Between what was too much and what was less than needed.
    low, high = 0.0, whole
    for _ in range(most):
        widths = planner.plan(budget)
        found = measured(widths)
        cost = planner.cost(widths)
        wanted = target.limit(found.dense)
        if fits(found):
            if good is None or found.amount > good.amount:
                good = found
            low = max(low, cost)
            if found.amount >= wanted * (1 - max(tolerance, 0.02)):
                break
        else:
            high = min(high, cost)
            if widths == planner.least:
                break
        budget = cost * wanted / found.amount
        if not low < budget < high:
            budget = (low + high) / 2
        if tuple(planner.plan(budget).values()) in seen:
            # Costs and measurements disagree on the order, or widths are
            # too coarse: look between what was measured on both sides.
            budget = (low + high) / 2
            if tuple(planner.plan(budget).values()) in seen:
                break
    if good is None:
        least = measured(planner.least)
        if fits(least):
            return least
        amount = target.of(least.amount, least.dense) * 1.01
        rule = (
            "`target` must be one that can be reached by cutting channels. "
            f"Received: target='{target}'; "
        )
        if target.is_share and amount >= 1:
            raise ValueError(
                rule + "the narrowest network costs as much as this one. A "
                "smaller `multiple_of` leaves fewer channels"
            )
        raise ValueError(
            f"{rule}the nearest that can is '{target.text(amount)}'. A "
            "smaller `multiple_of` leaves fewer channels"
        )
    return good
