"""The loss of classes that are not quite certain."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_app")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits with integer labels, smoothed over all classes.

        loss = -(1 - s) log p_y - s / K sum_k log p_k

    for K classes, the label y and probabilities p = softmax(logits). Keras
    smooths one-hot labels only.

    Args:
        label_smoothing: s, in [0, 1).

    Reference: [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567),
    section 7. Differs: none known.
    """

    def __init__(self, label_smoothing, name="smoothed_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """The loss of each sample."""
        log_p = ops.log_softmax(y_pred, axis=-1)
        labels = ops.cast(y_true, "int32")
        if len(labels.shape) == len(log_p.shape):
            labels = ops.squeeze(labels, axis=-1)
        one_hot = ops.one_hot(labels, log_p.shape[-1], dtype=log_p.dtype)
        s = self.label_smoothing
        of_label = ops.sum(one_hot * log_p, axis=-1)
        return -(1 - s) * of_label - s * ops.mean(log_p, axis=-1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
        }
