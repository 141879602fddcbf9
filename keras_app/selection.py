"""Which variables of a model are prunable, and why the others are not."""

import dataclasses
import gc
import math
import re

import keras

from keras_app import layers
from keras_app.hints import Variables
from keras_app.layers.inside import walk_layers

# What weights of unknown layers are called.
_BY_NAME = {
    "kernel": "a kernel of {}",
    "recurrent_kernel": "a kernel of {}",
    "depthwise_kernel": "a depthwise kernel",
}

# Keras names a variable that was given no name so.
_NAMELESS = re.compile(r"variable(_\d+)?")


@dataclasses.dataclass(frozen=True)
class Selection:
    """The outcome of `select`.

    Attributes:
        variables: `{path: keras.Variable}` to prune, in the model's order.
        skipped: `{path: reason}` for every other trainable variable.
    """

    variables: Variables
    skipped: dict[str, str]

    def without(self, skipped):
        """Returns the selection without some of its variables.

        Args:
            skipped: `{path: reason}`.
        """
        kept = {p: v for p, v in self.variables.items() if p not in skipped}
        return Selection(kept, {**self.skipped, **skipped})


def check_filters(filters):
    """Raises unless `filters` is `None`, regexes or a callable."""
    patterns = filters if isinstance(filters, (list, tuple)) else [filters]
    if filters is None or callable(filters):
        return
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                "`filters` must be a regex, a list of regexes, or a callable "
                f"on a variable. Received: filters={filters!r}"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`filters` must be a valid regex ({error}). "
                f"Received: filters={pattern!r}"
            ) from None


def select(model, filters=None):
    """Chooses the trainable variables to prune.

    Args:
        model: A built `keras.Model`.
        filters: `None` for the kernels of dense, einsum, attention and
            convolution layers; a regex or a list of regexes searched in
            `variable.path`; or a callable `variable -> bool`. Filters choose
            among floating-point weights of rank 2 or more, so that a broad
            pattern does not take biases and normalization along.

    Returns:
        A `Selection`. A variable that several layers share appears once. Two
        variables with one path get `#2`, `#3`, ... after it.

    Raises:
        ValueError: The model is not built, or nothing is selected.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [variable.name for variable in select(model).variables.values()]
    ['kernel']
    """
    check_filters(filters)
    # On TensorFlow the first step builds a Distiller, whose student is built.
    distills = isinstance(model, keras.distillation.Distiller)
    if not (model.student if distills else model).built:
        raise ValueError(
            "The model must be built before its weights can be selected. Call "
            "it once on a batch, or give it an `Input`."
        )
    owners = owners_of(model)
    chosen, skipped = {}, {}
    for path, variable in paths_of(model.trainable_variables).items():
        reason = _reason_to_skip(variable, owners, filters)
        if reason is None:
            chosen[path] = variable
        else:
            skipped[path] = reason
    if not chosen:
        raise ValueError(
            "There is nothing to prune: "
            + _why_frozen(model)
            + (
                "the model has no kernels of dense, attention or convolution "
                "layers; name its weights with `filters`."
                if filters is None
                else f"`filters` matches none of the model's weights of rank 2 "
                f"or more. Received: filters={filters!r}; weights: "
                f"{list(skipped)[:8]}"
            )
        )
    return Selection(chosen, skipped)


def adapted_layers(model):
    """Lists the layers whose weights LoRA froze, in the model's order."""
    return [
        layer
        for layer in walk_layers(model)
        if getattr(layer, "lora_enabled", False)
    ]


def some(names, most=4):
    """The first names of a list, in a sentence."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def grouped(reasons):
    """Lines on `(name, reason)` pairs, one for each reason with many names.

    Reasons that differ only in the number they begin with are one.

    Example:

    >>> grouped([("a", "a bias"), ("b", "a bias")])
    ['a: a bias', 'b: a bias']
    >>> grouped([(name, "a bias; see there") for name in "abcdefg"])
    ['7 biases; see there: a, b, c, d and 3 more']
    >>> grouped([(name, "2 zeros stay") for name in "abcdefg"])
    ['a: 2 zeros stay; the same for b, c, d, e and 2 more']
    """
    groups = {}
    for name, reason in reasons:
        number, words = re.match(r"(\d+ )?(.*)", reason, re.DOTALL).groups("")
        groups.setdefault(words, []).append((name, number + words))
    lines = []
    for words, members in groups.items():
        names = [name for name, _ in members]
        noun = re.match(r"an? (.*?)(?=$| of | \(|[;:,])", words)
        if len(members) <= 4:
            lines += [f"{name}: {reason}" for name, reason in members]
        elif noun is None:
            first = f"{names[0]}: {members[0][1]}"
            lines.append(f"{first}; the same for {some(names[1:])}")
        else:
            end = "es" if noun[1].endswith("s") else "s"
            rest = words[noun.end() :].replace("name it", "name them")
            rest = rest.replace("prune it", "prune them")
            many = f"{len(members)} {noun[1]}{end}{rest}"
            lines.append(f"{many}: {some(names)}")
    return lines


def _why_frozen(model):
    """The beginning of a message, where a reason is known."""
    adapted = [layer.path for layer in adapted_layers(model)]
    if adapted:
        return (
            f"LoRA has frozen the weights of {some(adapted)}. Prune first; "
            "what is zero stays zero under `enable_lora`. Of the rest, "
        )
    quantized = [
        variable.path
        for variable in model.non_trainable_variables
        if variable.name == "kernel" and "int" in str(variable.dtype)
    ]
    if quantized:
        return (
            f"quantization has frozen {some(quantized)}. Prune first; what is "
            "zero stays zero in `quantize`. Of the rest, "
        )
    return ""


def convolution_kernels(model):
    """Returns a callable filter: convolution kernels, as the APP paper prunes.

    In a network without convolutions it selects the dense kernels but the
    last, because the authors never prune the classifier.
    """
    owners = owners_of(model)
    kernels = [
        variable
        for variable in model.trainable_variables
        if _reason_to_skip(variable, owners, None) is None
    ]
    # Convolutions have a kernel size, whatever their class.
    chosen = [v for v in kernels if hasattr(owners[id(v)][0], "kernel_size")]
    ids = {id(variable) for variable in chosen or kernels[:-1]}
    return lambda variable: id(variable) in ids


def paths_of(variables):
    """Returns `{unique path: variable}`.

    Keras gives equal paths to equally named layers of two nested models.
    """
    paths, seen = {}, {}
    for variable in variables:
        count = seen[variable.path] = seen.get(variable.path, 0) + 1
        suffix = "" if count == 1 else f"#{count}"
        paths[variable.path + suffix] = variable
    return paths


def by_path(function, variables):
    """Returns `{path: function(variable)}`."""
    return {path: function(each) for path, each in variables.items()}


def owners_of(model):
    """`{id(variable): (layer, attribute)}` for variables of known layers.

    Of several layers that refer to a variable the one that made it owns it: a
    wrapper may keep the kernel of the layer inside under a name of its own.
    """
    uses = {}
    for layer in walk_layers(model):
        for name, value in vars(layer).items():
            if isinstance(value, keras.Variable):
                use = (layer, name.lstrip("_"), value)
                uses.setdefault(id(value), []).append(use)
    return {key: _owner(found)[:2] for key, found in uses.items()}


def _owner(uses):
    if len(uses) == 1:
        return uses[0]

    def distance(use):
        layer, name, variable = use
        made_here = variable.path == f"{layer.path}/{variable.name}"
        # Next to the layer that made it comes the innermost.
        inside = sum(1 for _ in walk_layers(layer))
        return not made_here, inside, name != variable.name

    return min(uses, key=distance)


def matches(variable, filters):
    """Whether `filters`, other than `None`, choose a variable."""
    if callable(filters):
        return bool(filters(variable))
    patterns = [filters] if isinstance(filters, str) else filters
    return any(re.search(pattern, path_of(variable)) for pattern in patterns)


def is_kernel(variable):
    """Whether a variable is a kernel, as far as an optimizer can tell.

    An optimizer sees variables without their layers: names and ranks decide.
    """
    name = variable.name.split(":")[0]
    named = "kernel" in name or _NAMELESS.fullmatch(name) is not None
    return named and len(variable.shape) >= 2


def spatial_kernels(variable):
    """A filter for kernels that see more than one position.

    Convolutions wider than one pixel, and neither the classifier nor the
    projections of residual networks: what the authors of continuous
    sparsification mask.
    """
    return is_kernel(variable) and math.prod(variable.shape[:-2]) > 1


def path_of(variable):
    """The path; of a backend's own variable, which has none, the name."""
    return getattr(variable, "path", variable.name)


def pattern_of(variable, variables):
    """A regex for the shortest end of a path that no other variable shares.

    Keras may change the beginning of a path when it loads a model.
    """
    parts = path_of(variable).split("/")
    for count in range(min(2, len(parts)), len(parts) + 1):
        pattern = f"(^|/){re.escape('/'.join(parts[-count:]))}$"
        matched = [v for v in variables if re.search(pattern, path_of(v))]
        if len(matched) == 1:
            break
    return pattern


def einsum_kernels(variables):
    """Returns those of `variables` that are kernels of an `EinsumDense`.

    A variable does not know its layer, and an optimizer not its model: this
    looks through all living layers.
    """
    if not variables:
        return []
    kernels = {
        id(vars(layer).get("_kernel"))
        for layer in gc.get_objects()
        # `isinstance` would wake up lazily loaded modules.
        if issubclass(type(layer), keras.layers.EinsumDense)
    }
    return [variable for variable in variables if id(variable) in kernels]


def _reason_to_skip(variable, owners, filters):
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if "float" not in dtype:
        return f"not a floating-point weight ({dtype})"
    if dtype.startswith("float8"):
        return "a quantized weight (float8)"
    if len(variable.shape) < 2:
        return "a vector (bias, scale or offset)"
    layer, attribute = owners.get(id(variable), (None, ""))
    if attribute.startswith("lora_"):
        return "an adapter of LoRA: a product of two matrices is dense"
    if filters is None:
        return _reason_by_default(layer, attribute)
    if attribute == "bias":
        # Those of attention have the rank of its heads.
        return "a bias"
    return None if matches(variable, filters) else "not matched by `filters`"


def _reason_by_default(layer, attribute):
    kernel = layers.kernel_of(layer, attribute)
    if kernel is None:
        noun = _BY_NAME.get(attribute, "a weight of {}")
    elif kernel.left_out is None:
        return None
    else:
        noun = kernel.left_out
    kind = "an unknown layer" if layer is None else type(layer).__name__
    return f"{noun.format(kind)}; name it with `filters` to prune it"
