"""The masks of an optimizer, which restores their zeros in each step."""

import types
import warnings

import keras
from keras import ops

from keras_app.enforcement import sidecar
from keras_app.enforcement.record import Record
from keras_app.enforcement.zeroing import zero_in_step


class MaskState(keras.layers.Layer):
    """The masks of one optimizer. Obtain it with `attach`.

    It is a `keras.layers.Layer` only because Keras stores and restores what
    layers, models and optimizers hold, and nothing else.
    """

    def __init__(self, optimizer):
        super().__init__(name="sparsity", trainable=False, dtype="float32")
        # Keras would track plain attributes as weights of this layer, and
        # its loader would walk from here back into the optimizer for ever.
        held = types.SimpleNamespace(
            optimizer=optimizer,
            records={},  # by the index of the trainable variable
            compiled={},
        )
        object.__setattr__(self, "_held", held)

    # ---- masks ---------------------------------------------------------

    def variables_with_masks(self):
        """Returns the variables that have a mask, in the model's order."""
        records = self._held.records
        return [records[index].variable for index in sorted(records)]

    @property
    def order(self):
        """Which of the trainable variables have a mask, as they were added."""
        return list(self._held.records)

    def record(self, variable):
        """Returns the `Record` of `variable`, or `None`."""
        return self._held.records.get(self._index(variable))

    def get(self, variable):
        """Returns the bool mask of `variable` as a NumPy array, or `None`.

        Of a weight that is split over devices the mask is gathered; the mask
        in `record` lies where the weight does.
        """
        record = self.record(variable)
        return None if record is None else ops.convert_to_numpy(record.mask)

    def add(self, variables):
        """Gives variables a mask of ones; returns those that had none."""
        added = []
        for variable in variables:
            index = self._index(variable)
            if index not in self._held.records:
                record = Record(self._held.optimizer, index)
                self._held.records[index] = record
                added.append(variable)
        return added

    def set(self, masks):
        """Writes new masks, zeroes what they prune, and forgets stale state.

        Weights that come back have their dormant values, or zero where none
        are kept.

        Args:
            masks: List of `(variable, bool array of its shape)`.
        """
        for variable, new in masks:
            self._known(variable).set_mask(new)
        self.zero()

    def zero(self):
        """Zeroes every pruned weight and its moving average now."""
        for record in self._held.records.values():
            record.zero()

    def leaks(self):
        """Returns `{path: count}` of pruned weights that are not zero."""
        counts = {
            record.variable.path: record.count_leaks()
            for record in self._held.records.values()
        }
        return {path: count for path, count in counts.items() if count}

    # ---- dormant values ------------------------------------------------

    def keep_dormant(self, variables, learning, decay=None):
        """Keeps what pruned weights hold, so that they can come back with it.

        With `learning` they train like the others:

            wake     w <- where(mask, w, dormant)
            update   w <- the optimizer's, by the gradient at mask * w
            sleep    dormant <- where(learning, w, dormant); w <- mask * w

        Between two steps the kernel is zero where it is pruned. Where it is
        kept it is the truth, so that weights may be set from outside. Weight
        decay that an optimizer keeps out of the gradient comes before and does
        not see dormant values; `decay` does.

        Args:
            variables: Variables with masks.
            learning: Whether pruned weights train. `learn` says which; all
                do until it is called.
            decay: `(a, b)`: the gradient grows by a w where a weight is kept
                and by b w where it is pruned. Defaults to `None`: as it was,
                at first (0, 0).

        Returns:
            Whether a step that was compiled before is out of date.
        """
        records = map(self._known, variables)
        return any([each.keep_dormant(learning, decay) for each in records])

    def learn(self, entries):
        """Says which weights train, pruned ones included; kept ones always do.

        The others stay what they are, and forget their momentum before they
        train again.

        Args:
            entries: List of `(variable, bool array of its shape)`.
        """
        for variable, new in entries:
            self._known(variable).learn(new)

    def learning(self, variable):
        """Returns, as a bool array, which entries of `variable` train."""
        record = self._known(variable)
        trains = record.mask if record.learning is None else record.learning
        return ops.convert_to_numpy(trains)

    def dense(self, variable):
        """Returns the weights as they were if nothing was pruned, in NumPy."""
        return ops.convert_to_numpy(self._known(variable).dense)

    # ---- gradients of the step -----------------------------------------

    def watch(self, variables, rule=None, store=False):
        """Keeps something about the gradients of the steps, beside weights.

            watched <- rule(watched, gradient, w)      while asked to

        w has its dormant values, where they are kept. `watch_next` says when
        the rule is applied; never, at first.

        Args:
            variables: Variables with masks.
            rule: Pure function of tensors of one shape. Defaults to `None`:
                the gradient itself.
            store: Whether files hold it. Defaults to `False`.

        Returns:
            Whether a step that was compiled before is out of date.
        """
        clipvalue = self._held.optimizer.clipvalue
        if clipvalue is not None:
            warnings.warn(
                "The optimizer clips gradients by value: what is larger than "
                f"clipvalue={clipvalue} is alike for whoever "
                "ranks gradients. Prefer clipnorm or global_clipnorm."
            )
        rule = _last_gradient if rule is None else rule
        records = map(self._known, variables)
        return any([each.watch(rule, store) for each in records])

    def watch_next(self, variables, value):
        """Says whether the next steps apply the rule; costs one pass each.

        Args:
            variables: Variables that are watched.
            value: Whether they are in the steps to come.
        """
        for variable in variables:
            self._known(variable).watching.assign(value)

    def watched(self, variable):
        """Returns what the rule made of the steps watched; zeros before."""
        return ops.convert_to_numpy(self._known(variable).watched)

    @property
    def own_variables(self):
        """Everything it added to the optimizer."""
        return [
            variable
            for record in self._held.records.values()
            for variable in record.own_variables
        ]

    def _index(self, variable):
        for i, known in enumerate(self._held.optimizer._trainable_variables):
            if known is variable:
                return i
        raise ValueError(
            f"{variable.path} is no trainable variable of the optimizer "
            f"{self._held.optimizer.name!r}. Compile the model again after "
            "changing which layers are trainable."
        )

    def _known(self, variable):
        return self._held.records[self._index(variable)]

    # ---- the compiled step ---------------------------------------------

    def before(self, gradient, variable):
        """Comes before the update of a variable; returns its gradient."""
        record = self._in_step(variable)
        return gradient if record is None else record.before(gradient, variable)

    def after(self, variable):
        """Comes after the update of a variable: its weights fall asleep."""
        record = self._in_step(variable)
        if record is not None:
            record.after(variable)

    def enforce(self, trainable_variables):
        """Zeroes the pruned among the variables just updated (in the step)."""
        pairs = [
            (variable, record.mask)
            for variable in trainable_variables
            if (record := self._in_step(variable)) is not None
        ]
        zero_in_step(self._held.optimizer, pairs, self._held.compiled)

    def _in_step(self, variable):
        # On TensorFlow a step may see the backend's own variable.
        index = self._held.optimizer._get_variable_index(variable)
        return self._held.records.get(index)

    # ---- files ---------------------------------------------------------

    def save_own_variables(self, store):
        """Stores all that a training needs to go on."""
        sidecar.save(self._held.records, store)

    def save_masks(self, store):
        """Stores each mask as bits, under the index of its variable."""
        sidecar.save_masks(self._held.records, store)

    def load_own_variables(self, store):
        """Restores what a file has; a mask of another shape is an error."""
        known = self._held.optimizer._trainable_variables
        sidecar.load(self, known, store)


def _last_gradient(watched, gradient, weight):
    return gradient
