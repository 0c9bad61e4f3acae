"""ResNet v1 (He et al. 2015) with Matterport's layer names, and normalisation."""

import contextlib
import contextvars
import math

import keras
from keras import layers, ops

from mrcnn import backend

STAGE4_BLOCKS = {"resnet50": 6, "resnet101": 23}

GROUP_CHANNELS = 16
"""Channels of a group in group normalisation (Wu and He 2018, table 3)."""


class BatchNorm(layers.BatchNormalization):
    """Batch normalisation that can be frozen apart from its scale and offset.

    Parameters
    ----------
    train_bn : bool or None
        False: always normalise by the moving statistics, as suits the small batches of detectors.
        True: always by those of the batch. None: by those of the batch in training.
    """

    def __init__(self, train_bn=None, **kwargs):
        super().__init__(**kwargs)
        self.train_bn = train_bn

    def get_config(self):
        return {**super().get_config(), "train_bn": self.train_bn}

    def call(self, inputs, training=None):
        # The argument of a functional call would not do: `fit` overrides it.
        training = training if self.train_bn is None else self.train_bn
        if not (training and self.trainable):
            return self._by_moving_statistics(inputs)
        scale, offset = (ops.cast(x, "float32") for x in (self.gamma, self.beta))
        outputs, mean, variance = backend.normalize_batch(inputs, scale, offset, self.epsilon)
        keep = self.momentum
        self.moving_mean.assign(keep * self.moving_mean + (1 - keep) * mean)
        self.moving_variance.assign(keep * self.moving_variance + (1 - keep) * variance)
        return ops.cast(outputs, self.compute_dtype)

    def _by_moving_statistics(self, inputs):
        if not (self.scale and self.center):
            return super().call(inputs, training=False)
        given = (self.moving_mean, self.moving_variance, self.gamma, self.beta)
        given = (ops.cast(x, "float32") for x in given)
        outputs = backend.normalize_by(inputs, *given, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


class GroupNorm(layers.GroupNormalization):
    """Group normalisation (Wu and He 2018) of images [B, H, W, C] or ROIs [B, N, H, W, C], each by
    itself, in training as in detection."""

    def build(self, input_shape):
        super().build((None, *input_shape[-3:]))
        self.input_spec = None

    def call(self, inputs):
        shape = ops.shape(inputs)
        outputs = super().call(ops.reshape(inputs, (-1, *shape[-3:])))
        return ops.reshape(outputs, shape)


NORMALIZATIONS = ("batch", "group", "layer")
"""What `normalize` can do."""

_kind = contextvars.ContextVar("normalization", default="batch")


@contextlib.contextmanager
def normalization(kind):
    """Choose what `normalize` does in a `with` block.

    Parameters
    ----------
    kind : str
        One of NORMALIZATIONS.
    """
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def normalize(x, train_bn=None, name=None):
    """Normalise features as `Config.NORMALIZATION` says; a backbone of one's own can use it too.

    "batch": `BatchNorm`. "group": in groups of GROUP_CHANNELS channels, or of as many as divide
    both. "layer": all channels together. The layer and its `gamma` and `beta` have the same names
    in each case, so that weights trained with one kind start a network with another.

    Parameters
    ----------
    x : KerasTensor [B, H, W, C] or [B, N, H, W, C]
        Images or ROIs.
    train_bn : bool or None
        See `BatchNorm`; the others have no statistics to freeze.
    name : str, optional

    Returns
    -------
    KerasTensor
        Of the same shape.
    """
    kind, channels = _kind.get(), x.shape[-1]
    if kind == "batch":
        return BatchNorm(train_bn, name=name)(x)
    groups = channels // math.gcd(channels, GROUP_CHANNELS) if kind == "group" else 1
    return GroupNorm(groups, name=name)(x)


def resnet_graph(input_image, architecture, stage5=False, train_bn=True):
    """Build a ResNet on an image.

    Parameters
    ----------
    input_image : KerasTensor [B, H, W, C]
        Height and width are multiples of 64.
    architecture : {"resnet50", "resnet101"}
    stage5 : bool
        Whether to build the last stage; without it C5 is None.
    train_bn : bool or None
        See `BatchNorm`.

    Returns
    -------
    list
        The feature maps C1 to C5, with strides 2, 4, 8, 16 and 32.
    """
    x = layers.ZeroPadding2D(3)(input_image)
    x = layers.Conv2D(64, 7, strides=2, name="conv1")(x)
    x = normalize(x, train_bn, "bn_conv1")
    x = layers.Activation("relu")(x)
    c1 = x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    c2 = x = _stage(x, 2, [64, 64, 256], 3, train_bn, strides=(1, 1))
    c3 = x = _stage(x, 3, [128, 128, 512], 4, train_bn)
    c4 = x = _stage(x, 4, [256, 256, 1024], STAGE4_BLOCKS[architecture], train_bn)
    c5 = _stage(x, 5, [512, 512, 2048], 3, train_bn) if stage5 else None
    return [c1, c2, c3, c4, c5]


def _stage(x, stage, filters, blocks, train_bn, strides=(2, 2)):
    x = conv_block(x, 3, filters, stage, "a", strides=strides, train_bn=train_bn)
    for block in range(1, blocks):
        x = identity_block(x, 3, filters, stage, chr(ord("a") + block), train_bn=train_bn)
    return x


def identity_block(input_tensor, kernel_size, filters, stage, block, use_bias=True, train_bn=True):
    """A residual bottleneck whose shortcut is its input.

    Parameters
    ----------
    input_tensor : KerasTensor [B, H, W, filters[2]]
    kernel_size : int
        Of the middle convolution.
    filters : sequence of three int
        Channels of the three convolutions.
    stage : int
    block : str
        Stage and block make the layers' names, such as `res2a_branch2b`.
    use_bias : bool
    train_bn : bool or None
        See `BatchNorm`.

    Returns
    -------
    KerasTensor [B, H, W, filters[2]]
    """
    x = _bottleneck(input_tensor, kernel_size, filters, f"{stage}{block}", 1, use_bias, train_bn)
    return _join(x, input_tensor, f"{stage}{block}")


def conv_block(
    input_tensor,
    kernel_size,
    filters,
    stage,
    block,
    strides=(2, 2),
    use_bias=True,
    train_bn=True,
):
    """A residual bottleneck that changes size: strided first and shortcut convolutions.

    Parameters are those of `identity_block`, and `strides`, of the output to the input.
    """
    name = f"{stage}{block}"
    x = _bottleneck(input_tensor, kernel_size, filters, name, strides, use_bias, train_bn)
    shortcut = layers.Conv2D(
        filters[2], 1, strides=strides, use_bias=use_bias, name=f"res{name}_branch1"
    )(input_tensor)
    shortcut = normalize(shortcut, train_bn, f"bn{name}_branch1")
    return _join(x, shortcut, name)


def _bottleneck(x, kernel_size, filters, name, strides, use_bias, train_bn):
    steps = (("a", 1, strides), ("b", kernel_size, 1), ("c", 1, 1))
    for (branch, kernel, stride), channels in zip(steps, filters):
        x = layers.Conv2D(
            channels,
            kernel,
            strides=stride,
            padding="same" if branch == "b" else "valid",
            use_bias=use_bias,
            name=f"res{name}_branch2{branch}",
        )(x)
        x = normalize(x, train_bn, f"bn{name}_branch2{branch}")
        if branch != "c":
            x = layers.Activation("relu")(x)
    return x


def _join(x, shortcut, name):
    return layers.Activation("relu", name=f"res{name}_out")(layers.Add()([x, shortcut]))


def build_backbone(input_image, config):
    """The feature maps C1 to C5 of the backbone that a Config names or supplies."""
    if callable(config.BACKBONE):
        return config.BACKBONE(input_image, stage5=True, train_bn=config.TRAIN_BN)
    return resnet_graph(input_image, config.BACKBONE, stage5=True, train_bn=config.TRAIN_BN)


def set_batch_norm_momentum(model, momentum):
    """Set how slowly the moving statistics of a model's batch normalisations follow the batches."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
