"""Images to restore, in three parts."""

import numpy as np

from keras_app.checks import check_number
from keras_app.experiments.data import source
from keras_app.experiments.data.parts import Parts
from keras_app.experiments.data.tensorflow_pipeline import import_tensorflow

_BLUR_RADIUS = 4


class Restoration(Parts):
    """Pairs `(degraded image, clean image)` in three parts, as `Holdout`.

    For networks that learn to undo what happened to an image:

        degraded = blur(clean) + noise * N(0, 1)

    `blur` is a convolution of each channel with a 9x9 Gaussian kernel that
    sums to 1; at the border the image is continued by its reflection (without
    the border pixels twice). Clean images are in [0, 1]; degraded ones are
    not clipped and may leave it. The noise of a training image is another one
    in every epoch, and follows from the seed, the number of the epoch and the
    step; that of the validation and the test images never changes.

    Args:
        name_or_arrays: Name of a data set (see `load`), or a pair of arrays:
            images `(N, height, width, channels)`, uint8 or in [0, 1], and
            integer labels `(N,)`, which are not used.
        noise: Standard deviation of the noise, at least 0, in units of the
            clean image. Defaults to `0.05`.
        blur_sigma: Standard deviation of the Gaussian kernel in pixels, a
            positive number. Defaults to `None`, no blur.
        validation_fraction, test, batch_size, shuffle, seed, data_dir, split:
            See `Holdout`; the seed is that of the noise, too.

    The attributes are those of `Holdout`, with `num_classes` `None`.

    Raises:
        ValueError: An argument is out of its range, the images do not have
            the shape above or leave [0, 1], or `.test` is asked for where
            arrays came without `test`.

    Example:

    >>> blurred = Restoration("fashion_mnist_mini", blur_sigma=5)
    >>> degraded, clean = blurred.test
    >>> degraded.shape == clean.shape == (1000, 28, 28, 1)
    True
    """

    def __init__(self, name_or_arrays, *, noise=0.05, blur_sigma=None, **parts):
        check_number("noise", noise, lambda x: x >= 0)
        if blur_sigma is not None:
            check_number("blur_sigma", blur_sigma, lambda x: x > 0, "> 0")
        self._noise = noise
        self._blur_sigma = blur_sigma
        super().__init__(name_or_arrays, **parts)
        self.num_classes = None

    def _check(self, argument, images):
        smallest = 1 if self._blur_sigma is None else _BLUR_RADIUS + 1
        if images.ndim != 4 or min(images.shape[1:3]) < smallest:
            raise ValueError(
                f"`{argument}` must have images of the shape (N, height, "
                f"width, channels), with height and width of at least "
                f"{smallest}. Received: images of shape {images.shape}"
            )
        if images.dtype != np.uint8 and not (
            images.min() >= 0 and images.max() <= 1
        ):
            raise ValueError(
                f"`{argument}` must have images that are uint8 or in [0, 1]. "
                f"Received: {images.dtype} images from {images.min()} to "
                f"{images.max()}"
            )

    def _settings(self):
        return {"noise": self._noise, "blur_sigma": self._blur_sigma}

    def _prepare(self, images, labels, key):
        tf = import_tensorflow()
        clean = source.in_unit_range(images)
        degraded = clean
        if self._blur_sigma is not None:
            degraded = _blur(degraded, self._blur_sigma)
        draws = tf.random.stateless_normal(tf.shape(clean), key)
        return degraded + self._noise * draws, clean


def _blur(images, sigma):
    """Convolves each channel with a 9x9 Gaussian kernel."""
    tf = import_tensorflow()
    distances = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * (distances / sigma) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    channels = images.shape[-1]
    kernel = np.tile(kernel[..., None, None], (1, 1, channels, 1))
    around = [_BLUR_RADIUS, _BLUR_RADIUS]
    images = tf.pad(images, [[0, 0], around, around, [0, 0]], mode="REFLECT")
    return tf.nn.depthwise_conv2d(
        images, kernel.astype("float32"), strides=[1, 1, 1, 1], padding="VALID"
    )
