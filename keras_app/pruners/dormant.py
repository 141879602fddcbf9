"""The base of methods whose pruned weights keep their values."""

from keras_app import masks as masks_lib
from keras_app.hints import Arrays
from keras_app.hints import Variables
from keras_app.masks.structures import Structure
from keras_app.pruners.pruner import Pruner
from keras_app.selection import by_path


class DormantPruner(Pruner):
    """Chooses the masks again at each update, from what all weights are worth.

    Between updates the kernel is zero where it is pruned, as under every
    pruner. What a pruned weight held is kept beside it, and a weight that comes
    back goes on from there. Subclasses say what its value does in between.

    It costs one value beside each weight. Decoupled weight decay
    (`weight_decay=` of a Keras optimizer) acts on kept weights only. Like the
    masks, dormant values belong to the optimizer: they are there, and train,
    in a later `fit` too, until the model is compiled again.

    A file read by `keras.saving.load_model` brings neither masks nor dormant
    values: zeros that the schedule asked for count as pruned, and start from
    zero. Sparse checkpoints, `load_weights` into a model that has been pruned,
    and run folders continue exactly.

    Args:
        schedule: Its steps are the updates: the masks move as long as it
            prunes. `ConstantSparsity` trains at one density; a ramp such as
            `PolynomialDecay` fixes the masks at its `end_step`.
        scope, structure, distribution, filters, custom_sparsity, on_miss: See
            `Pruner`.
    """

    revives = True
    takes_split = True

    #: Whether dormant weights train.
    learning = True

    def decay(self) -> tuple[float, float]:
        """Returns `(of kept, of dormant weights)`: times w, in the gradient."""
        return 0.0, 0.0

    def set_model(self, model):
        """Selects the weights and gives the optimizer its masks."""
        super().set_model(model)
        if self._state.keep_dormant(
            self.variables.values(), self.learning, self.decay()
        ):
            model.train_function = None

    def magnitudes(self, variables: Variables) -> Arrays:
        """Returns `{path: |w|}` of kept and of dormant weights."""
        record = self._state.record
        return by_path(lambda v: abs(self.here(record(v).dense)), variables)

    def scores(self, variables: Variables) -> Arrays:
        """Returns `{path: |w|}` of kept and of dormant weights."""
        return self.magnitudes(variables)

    def combine(
        self,
        scores: Arrays,
        sparsity: float,
        old: Arrays,
        structure: Structure | None,
    ) -> Arrays:
        """Returns new masks; what was pruned may come back."""
        return masks_lib.mask_from_scores(scores, sparsity, structure)
