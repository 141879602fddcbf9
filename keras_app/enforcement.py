"""Masks as optimizer state: re-zero after each update, save and restore.

The weights a mask prunes are exactly zero in the kernel variable itself. The
optimizer's collective update is wrapped, per instance, so that the zeros are
restored inside the compiled step. That one place comes after weight decay,
clipping, gradient accumulation and loss scaling, and before the moving average
of the weights, which therefore averages zeros.

The masks are optimizer variables, because that is the only state the JAX
trainer carries through its compiled step besides the model's own. They are kept
out of the optimizer's own file entry: Keras refuses a file whose number of
variables differs, and so a checkpoint still loads where this package is not
installed. A side-car at `optimizer.sparsity` stores them bit-packed instead.

Beside the masks there may be *dormant values*, what pruned weights held. They
are zero in the kernel and so in the forward and the backward pass, and train
all the same: for the optimizer's update, and for that alone, they wake up.

Private Keras names in use: `_backend_update_step`, `_distribution_strategy`,
`_get_variable_index`, `_layout`, `_model_variables_moving_average`,
`_trainable_variables`, `_untrack_variable`, `_variables`.
"""

import math
import types
import warnings

import keras
import numpy as np
from keras import ops

from keras_app import host
from keras_app.selection import paths_of

# Keras's names for the slots that say where a weight was going, the second one
# Ftrl's. Those of a weight that comes back are stale. Accumulators of squares
# stay: Ftrl and Adagrad divide by theirs.
_MOMENTUM_SLOTS = ("momentum", "linear")

# On a CPU PyTorch multiplies floats by bools without vector instructions.
# Converting a piece that fits the cache is five times faster, and the mask
# still takes one byte a weight.
_TORCH_CHUNK = 1 << 17


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
            masks={},
            compiled={},
            dormant={},
            learning={},
            decay={},
            watched={},
            rules={},
            stored=set(),
            watching={},
        )
        object.__setattr__(self, "_held", held)

    @property
    def _masks(self):
        return self._held.masks  # index of the trainable variable -> mask

    # ---- masks ---------------------------------------------------------

    def variables_with_masks(self):
        """Returns the variables that have a mask, in the model's order."""
        known = self._held.optimizer._trainable_variables
        return [known[index] for index in sorted(self._masks)]

    def get(self, variable):
        """Returns the bool mask of `variable` as a NumPy array, or `None`."""
        mask = self._masks.get(self._index(variable))
        return None if mask is None else ops.convert_to_numpy(mask)

    def add(self, variables):
        """Gives variables a mask of ones; returns those that had none."""
        added = []
        for variable in variables:
            index = self._index(variable)
            if index in self._masks:
                continue
            self._masks[index] = self._add_bools(variable, "mask")
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
            index = self._index(variable)
            mask = self._masks[index]
            new = _checked("mask", variable, new)
            regrown = new & ~ops.convert_to_numpy(mask)
            if index in self._held.dormant:
                values = self.dense(variable)
                self._held.dormant[index].assign(values)
                if regrown.any():
                    for each in self._with_average(index):
                        now = ops.convert_to_numpy(each)
                        woken = np.where(regrown, values, now)
                        each.assign(woken.astype(now.dtype))
            mask.assign(new)
            # The momentum of what was learning is not stale.
            if index not in self._held.learning:
                self._reset_momentum(variable, regrown)
        self.zero()

    def zero(self):
        """Zeroes every pruned weight and its moving average now."""
        for index, mask in self._masks.items():
            keep = ops.convert_to_numpy(mask)
            for each in self._with_average(index):
                _assign_where(each, keep)

    def leaks(self):
        """Returns `{path: count}` of pruned weights that are not zero."""
        leaks = {}
        for index, mask in self._masks.items():
            variable = self._held.optimizer._trainable_variables[index]
            values = ops.convert_to_numpy(variable)
            count = np.count_nonzero(values[~ops.convert_to_numpy(mask)])
            if count:
                leaks[variable.path] = int(count)
        return leaks

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
        held = self._held
        changed = False
        for variable in variables:
            index = self._index(variable)
            if index not in held.dormant:
                held.dormant[index] = add_latent(
                    held.optimizer, variable, "dormant"
                )
                changed = True
            if learning and index not in held.learning:
                held.learning[index] = self._add_bools(variable, "learning")
                changed = True
            if decay not in (None, held.decay.get(index)):
                held.decay[index] = decay
                changed = True
        return changed

    def learn(self, entries):
        """Says which weights train, pruned ones included; kept ones always do.

        The others stay what they are, and forget their momentum before they
        train again.

        Args:
            entries: List of `(variable, bool array of its shape)`.
        """
        for variable, new in entries:
            learning = self._held.learning[self._index(variable)]
            new = _checked("learning entries", variable, new)
            old = ops.convert_to_numpy(learning)
            learning.assign(new)
            self._reset_momentum(variable, new & ~old)

    def learning(self, variable):
        """Returns, as a bool array, which entries of `variable` train."""
        learning = self._held.learning.get(self._index(variable))
        if learning is None:
            return self.get(variable)
        return ops.convert_to_numpy(learning)

    def dense(self, variable):
        """Returns the weights as they were if nothing was pruned, in NumPy."""
        values = ops.convert_to_numpy(variable)
        dormant = self._held.dormant.get(self._index(variable))
        if dormant is None:
            return values
        return np.where(
            self.get(variable), values, ops.convert_to_numpy(dormant)
        )

    # ---- gradients of the step -----------------------------------------

    def watch(self, variables, rule=None, store=False):
        """Keeps something about the gradients of the steps, beside weights.

            watched <- rule(watched, gradient, w)      while asked to

        w has its dormant values, where they are kept. `watch_next` says when
        the rule is applied; never, at first.

        Args:
            variables: Variables of the optimizer.
            rule: Pure function of tensors of one shape. Defaults to `None`:
                the gradient itself.
            store: Whether files hold it. Defaults to `False`.

        Returns:
            Whether a step that was compiled before is out of date.
        """
        held = self._held
        rule = _last_gradient if rule is None else rule
        if held.optimizer.clipvalue is not None:
            warnings.warn(
                "The optimizer clips gradients by value: what is larger than "
                f"clipvalue={held.optimizer.clipvalue} is alike for whoever "
                "ranks gradients. Prefer clipnorm or global_clipnorm."
            )
        changed = False
        for variable in variables:
            index = self._index(variable)
            self._make_room(variable)
            before = held.rules.get(index)
            if rule is not before:
                held.rules[index] = rule
                changed = True
            if before not in (None, rule):
                slot = held.watched[index]
                slot.assign(np.zeros(tuple(slot.shape)))
            (held.stored.add if store else held.stored.discard)(index)
        return changed

    def _make_room(self, variable):
        held = self._held
        index = self._index(variable)
        if index in held.watched:
            return
        path = variable.path.replace("/", "_")
        held.watched[index] = add_latent(held.optimizer, variable, "watched")
        with (
            host.outside_the_graph(),
            host.placed_like(held.optimizer, variable),
        ):
            held.watching[index] = held.optimizer.add_variable(
                (), initializer="zeros", dtype="bool", name=f"{path}_watching"
            )

    def watch_next(self, variables, value):
        """Says whether the next steps apply the rule; costs one pass each.

        Args:
            variables: Variables that are watched.
            value: Whether they are in the steps to come.
        """
        for variable in variables:
            self._held.watching[self._index(variable)].assign(value)

    def watched(self, variable):
        """Returns what the rule made of the steps watched; zeros before."""
        slot = self._held.watched[self._index(variable)]
        return ops.convert_to_numpy(slot)

    @property
    def own_variables(self):
        """Everything it added to the optimizer."""
        held = self._held
        kinds = (held.masks, held.dormant, held.learning, held.watched)
        return [v for kind in (*kinds, held.watching) for v in kind.values()]

    def _index(self, variable):
        for i, known in enumerate(self._held.optimizer._trainable_variables):
            if known is variable:
                return i
        raise ValueError(
            f"{variable.path} is no trainable variable of the optimizer "
            f"{self._held.optimizer.name!r}. Compile the model again after "
            "changing which layers are trainable."
        )

    def _add_bools(self, variable, name):
        """Adds a bool for each entry of a variable, all true."""
        optimizer = self._held.optimizer
        with host.placed_like(optimizer, variable):
            return optimizer.add_variable(
                shape=variable.shape,
                dtype="bool",
                initializer="ones",
                layout=getattr(variable, "_layout", None),
                name=f"{variable.path.replace('/', '_')}_{name}",
            )

    def _with_average(self, index):
        """The weight and, where there is one, its moving average."""
        optimizer = self._held.optimizer
        averages = getattr(optimizer, "_model_variables_moving_average", None)
        average = averages[index] if averages else None
        found = (optimizer._trainable_variables[index], average)
        return [each for each in found if each is not None]

    def _reset_momentum(self, variable, forget):
        if not forget.any():
            return
        optimizer = self._held.optimizer
        path = variable.path.replace("/", "_")
        # Equally named layers of two nested models have slots of one name,
        # in the order of their variables; so have `a/b` and `a_b`.
        twins = [
            known
            for known in optimizer._trainable_variables
            if known.path.replace("/", "_") == path
        ]
        for kind in _MOMENTUM_SLOTS:
            name = f"{path}_{kind}"
            slots = [slot for slot in optimizer.variables if slot.name == name]
            for known, slot in zip(twins, slots):
                if known is variable:
                    _assign_where(slot, ~forget)

    # ---- the compiled step ---------------------------------------------

    def before(self, gradient, variable):
        """Comes before the update of a variable; returns its gradient."""
        held = self._held
        index = held.optimizer._get_variable_index(variable)
        if index not in held.dormant and index not in held.watched:
            return gradient
        weight = host.as_tensor(variable)
        if index in held.dormant:
            mask = host.as_tensor(held.masks[index])
            weight = ops.where(
                mask, weight, host.as_tensor(held.dormant[index])
            )
        if index in held.rules:
            self._record(index, gradient, weight)
        if index not in held.learning:
            return gradient
        held.optimizer.assign(variable, ops.cast(weight, variable.dtype))
        kept, asleep = held.decay.get(index, (0.0, 0.0))
        if kept == asleep == 0.0:
            return gradient
        gradient = host.as_tensor(gradient)
        added = ops.where(mask, kept * weight, asleep * weight)
        return gradient + ops.cast(added, gradient.dtype)

    def _record(self, index, gradient, weight):
        held = self._held
        if host.known(held.watching[index]) is False:
            return
        slot, watching = (
            held.watched[index],
            host.as_tensor(held.watching[index]),
        )

        def rule(watched, gradient, weight):
            new = held.rules[index](
                watched,
                ops.cast(gradient, watched.dtype),
                ops.cast(weight, watched.dtype),
            )
            return [ops.where(watching, new, watched)]

        apply_rule(held.optimizer, rule, [slot, gradient, weight], [slot])

    def after(self, variable):
        """Comes after the update of a variable: its weights fall asleep."""
        held = self._held
        index = held.optimizer._get_variable_index(variable)
        if index in held.learning:
            dormant = held.dormant[index]
            apply_rule(
                held.optimizer,
                lambda learning, w, d: [ops.where(learning, w, d)],
                [held.learning[index], variable, dormant],
                [dormant],
            )

    def enforce(self, trainable_variables):
        """Zeroes the pruned among the variables just updated (in the step)."""
        pairs = []
        for variable in trainable_variables:
            mask = self._masks.get(
                self._held.optimizer._get_variable_index(variable)
            )
            if mask is not None:
                pairs.append((variable, mask))
        if host.BACKEND == "tensorflow":
            _enforce_tensorflow(
                self._held.optimizer, pairs, self._held.compiled
            )
        elif host.BACKEND == "torch":
            _enforce_torch(pairs)
        else:
            for variable, mask in pairs:
                zero = ops.zeros((), dtype=variable.dtype)
                variable.assign(ops.where(mask.value, variable.value, zero))

    # ---- files ---------------------------------------------------------

    def save_own_variables(self, store):
        """Stores all that a training needs to go on."""
        self.save_masks(store)
        held = self._held
        for index, dormant in held.dormant.items():
            store[f"dormant_{index}"] = ops.convert_to_numpy(dormant)
        for index, learning in held.learning.items():
            store[f"learning_{index}"] = _as_bits(learning)
        for index in sorted(held.stored):
            slot = held.watched[index]
            store[f"watched_{index}"] = ops.convert_to_numpy(slot)

    def save_masks(self, store):
        """Stores each mask as bits, under the index of its variable."""
        for index in sorted(self._masks):
            mask = self._masks[index]
            store[f"shape_{index}"] = np.asarray(mask.shape, np.int64)
            store[f"mask_{index}"] = _as_bits(mask)

    def load_own_variables(self, store):
        """Restores what a file has; a mask of another shape is an error."""
        held = self._held
        keys = set(store.keys())
        for index, variable in enumerate(held.optimizer._trainable_variables):
            if f"mask_{index}" not in keys:
                continue
            shape = tuple(int(d) for d in np.asarray(store[f"shape_{index}"]))
            if shape != tuple(variable.shape):
                raise ValueError(
                    f"The stored mask of {variable.path} has shape {shape}, "
                    f"but the variable has {tuple(variable.shape)}."
                )
            self.add([variable])
            _assign_bits(self._masks[index], store[f"mask_{index}"])
            if f"dormant_{index}" in keys:
                learning = f"learning_{index}" in keys
                self.keep_dormant([variable], learning)
                held.dormant[index].assign(
                    np.asarray(store[f"dormant_{index}"])
                )
                if learning:
                    _assign_bits(
                        held.learning[index], store[f"learning_{index}"]
                    )
            if f"watched_{index}" in keys:
                self._make_room(variable)
                held.stored.add(index)
                held.watched[index].assign(
                    np.asarray(store[f"watched_{index}"])
                )


def attach(model, variables=()):
    """Makes `model`'s optimizer keep masks for `variables`; returns the state.

    Calling it again adds variables to the state that is there.

    Args:
        model: A compiled, built `keras.Model`.
        variables: Trainable variables of the model.

    Raises:
        ValueError: The model is not compiled; it was given other trainable
            variables since; or the combination of optimizer and distribution
            is one that Keras itself cannot train.
    """
    optimizer = host.inner_optimizer(model)
    if optimizer is None:
        raise ValueError(
            "The model must be compiled with an optimizer before it can be "
            "pruned. Call `model.compile(...)` first."
        )
    _refuse_what_keeps_no_masks(optimizer)
    host.check_model(model)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    _check_knows(optimizer, model)
    state = state_of(model)
    if state is None:
        state = MaskState(optimizer)
        _wrap(optimizer, model.optimizer, state)
        optimizer.sparsity = state
    if state.add(variables):
        # A step compiled before knows nothing of the new masks.
        model.train_function = None
    host.unalias(model)
    return state


def detach(model):
    """Ends the enforcement; the zeros stay until the next training step."""
    state = state_of(model)
    if state is None:
        return
    optimizer = host.inner_optimizer(model)
    for owner in {id(o): o for o in (optimizer, model.optimizer)}.values():
        for name in ("update_step", "_backend_update_step", *_FILE_METHODS):
            owner.__dict__.pop(name, None)
    for variable in state.own_variables:
        optimizer._untrack_variable(variable)
    del optimizer.sparsity
    model.train_function = None


def state_of(model):
    """Returns the `MaskState` of the model's optimizer, or `None`."""
    state = getattr(host.inner_optimizer(model), "sparsity", None)
    return state if isinstance(state, MaskState) else None


def masks_of(model):
    """Returns the masks that a model trains under.

    Args:
        model: A compiled `keras.Model`.

    Returns:
        `{variable.path: bool array}`, `True` kept; empty for a dense model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> masks_of(model)
    {}
    """
    state = state_of(model)
    if state is None:
        return {}
    host.sync(model)
    masks = {
        path: state.get(variable)
        for path, variable in paths_of(model.trainable_variables).items()
    }
    return {path: mask for path, mask in masks.items() if mask is not None}


_FILE_METHODS = ("save_own_variables", "load_own_variables")


# ---- latent state: what an optimizer keeps beside each weight ---------------


def add_latent(optimizer, variable, name):
    """Adds a variable of zeros to an optimizer, shaped like a weight.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, while it is being built.
        variable: The weight.
        name: What it is; it is called `{path of the weight}_{name}`.

    Returns:
        A `keras.Variable` on the devices of the weight, of its dtype but not
        below float32.
    """
    path = getattr(variable, "path", variable.name).replace("/", "_")
    dtype = keras.backend.standardize_dtype(variable.dtype)
    with host.outside_the_graph(), host.placed_like(optimizer, variable):
        return optimizer.add_variable(
            shape=variable.shape,
            dtype=keras.backend.result_type(dtype, "float32"),
            layout=getattr(variable, "_layout", None),
            name=f"{path}_{name}",
        )


def apply_rule(optimizer, rule, inputs, targets, in_pieces=True):
    """Writes `rule(*inputs)` to the variables `targets`, in a training step.

    Args:
        optimizer: The optimizer whose step it is.
        rule: Pure function of tensors of one shape; returns one for each of
            the targets.
        inputs: Tensors or variables.
        targets: Variables.
        in_pieces: Whether the rule may be given pieces of the tensors. On a
            CPU PyTorch computes one operation after another over the whole
            array; in pieces that fit the cache it is several times faster.
    """
    # Arithmetic of tensors is much quicker than that of Keras's variables.
    inputs = [host.as_tensor(each) for each in inputs]
    pieces = in_pieces and host.BACKEND == "torch"
    if pieces and _apply_in_pieces(rule, inputs, targets):
        return
    for target, value in zip(targets, rule(*inputs)):
        optimizer.assign(target, ops.cast(value, target.dtype))


def _apply_in_pieces(rule, inputs, targets):
    """Returns whether it did; PyTorch only."""
    import torch

    natives = [ops.convert_to_tensor(each) for each in targets]
    size = natives[0].numel()
    if natives[0].device.type != "cpu" or size <= _TORCH_CHUNK:
        return False
    if not all(each.is_contiguous() for each in natives):
        return False
    with torch.no_grad():
        inputs = [each.reshape(-1) for each in inputs]
        natives = [each.view(-1) for each in natives]
        for start in range(0, size, _TORCH_CHUNK):
            piece = slice(start, start + _TORCH_CHUNK)
            values = rule(*(each[piece] for each in inputs))
            for native, value in zip(natives, values):
                native[piece].copy_(value)
    return True


def _check_knows(optimizer, model):
    """Raises where Keras would fail in the middle of the first step."""
    known = {id(variable) for variable in optimizer._trainable_variables}
    new = [v.path for v in model.trainable_variables if id(v) not in known]
    if new:
        raise ValueError(
            f"The optimizer {optimizer.name!r} was built without "
            f"{', '.join(new[:4])}. Compile the model again after changing "
            "which layers are trainable, after `quantize` and after "
            "`enable_lora`."
        )


def _wrap(optimizer, owner, state):
    update, update_one = optimizer._backend_update_step, optimizer.update_step
    # PyTorch updates some optimizers' variables all at once. On TensorFlow
    # the devices' gradients are summed only when one variable is updated.
    at_once = host.BACKEND == "torch"

    def update_step(gradient, variable, learning_rate):
        gradient = state.before(gradient, variable)
        update_one(gradient, variable, learning_rate)
        state.after(variable)

    def update_and_zero(grads, trainable_variables, learning_rate):
        if at_once:
            pairs = zip(grads, trainable_variables)
            grads = [state.before(*pair) for pair in pairs]
        update(grads, trainable_variables, learning_rate)
        if at_once:
            for variable in trainable_variables:
                state.after(variable)
        state.enforce(trainable_variables)

    if not at_once:
        object.__setattr__(optimizer, "update_step", update_step)
    object.__setattr__(optimizer, "_backend_update_step", update_and_zero)
    # A LossScaleOptimizer writes its inner optimizer's variables too.
    for each in {id(o): o for o in (optimizer, owner)}.values():
        for name in _FILE_METHODS:
            method = _without_masks(getattr(each, name), optimizer, state)
            object.__setattr__(each, name, method)


def _without_masks(method, optimizer, state):
    def call(store):
        own = {id(variable) for variable in state.own_variables}
        everything = optimizer._variables
        plain = [v for v in everything if id(v) not in own]
        object.__setattr__(optimizer, "_variables", plain)
        try:
            method(store)
        finally:
            object.__setattr__(optimizer, "_variables", everything)

    return call


def _checked(what, variable, new):
    new = np.asarray(new, dtype=bool)
    if new.shape != tuple(variable.shape):
        raise ValueError(
            f"The {what} of {variable.path} must have shape "
            f"{tuple(variable.shape)}. Received: {new.shape}"
        )
    return new


def _as_bits(variable):
    return np.packbits(ops.convert_to_numpy(variable).reshape(-1))


def _assign_bits(variable, bits):
    shape = tuple(variable.shape)
    found = np.unpackbits(np.asarray(bits, np.uint8), count=math.prod(shape))
    variable.assign(found.reshape(shape).astype(bool))


def _last_gradient(watched, gradient, weight):
    return gradient


def _assign_where(variable, keep):
    values = ops.convert_to_numpy(variable)
    if np.count_nonzero(values[~keep]):
        zero = np.zeros((), values.dtype)
        variable.assign(np.where(keep, values, zero))


def _enforce_tensorflow(optimizer, pairs, compiled):
    import tensorflow as tf

    natives = [
        # A loop that calls `apply_gradients` itself may pass tf.Variables.
        (v.value if isinstance(v, keras.Variable) else v, mask.value)
        for v, mask in pairs
    ]

    def zero(value, mask):
        value.assign(tf.where(mask, value, tf.zeros((), value.dtype)))

    strategy = optimizer._distribution_strategy
    if strategy.num_replicas_in_sync == 1:
        # Op by op, `where` and `assign` write the weights twice. Compiled
        # they do it once and in place, in less than half the time.
        key = tuple(id(variable) for variable, _ in pairs)
        if key not in compiled:

            @tf.function(jit_compile=True)
            def zero_all():
                for value, mask in natives:
                    zero(value, mask)

            compiled[key] = zero_all
        compiled[key]()
        return

    def update(strategy, natives):
        for value, mask in natives:
            strategy.extended.update(value, zero, args=(mask,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, strategy, natives
    )


def _enforce_torch(pairs):
    import torch

    # A product alone leaves -0.0 behind, a sign that files would have to
    # store; adding 0 makes it 0.0, as on the other backends.
    with torch.no_grad():
        for variable, mask in pairs:
            value, keep = variable.value, mask.value
            if value.device.type != "cpu" or value.numel() <= _TORCH_CHUNK:
                value.mul_(keep).add_(0.0)
                continue
            flat, flat_keep = value.view(-1), keep.view(-1)
            for start in range(0, flat.numel(), _TORCH_CHUNK):
                piece = flat[start : start + _TORCH_CHUNK]
                kept = flat_keep[start : start + _TORCH_CHUNK]
                piece.mul_(kept.to(piece.dtype)).add_(0.0)


def _refuse_what_keeps_no_masks(optimizer):
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ValueError(
            "MultiOptimizer hands the variables to optimizers of its own, so "
            "that no mask would be kept. Train with one optimizer, such as "
            "keras.optimizers.Adam, to prune."
        )
    if getattr(optimizer, "finds_zeros", False):
        kind = type(optimizer).__name__
        raise ValueError(
            f"{kind} decides by itself which weights are zero, and a mask "
            "would disagree with its latent state. Train with another "
            "optimizer, or without a pruner."
        )
