"""A decoder of the U-Net (Ronneberger et al. 2015): from an encoder's features to one map."""

from keras import layers, ops

from mrcnn.backbone import normalize

STRIDES = (16, 8, 4, 2, 1)
"""Strides of a decoder's stages, first to last, in pixels of the image."""


def conv_block(x, channels, name, train_bn):
    """A 3 x 3 convolution, normalisation and ReLU.

    Parameters
    ----------
    x : KerasTensor [B, H, W, C]
    channels : int
    name : str
        The layers are called `<name>_conv` and `<name>_bn`.
    train_bn : bool or None
        See `mrcnn.backbone.BatchNorm`.

    Returns
    -------
    KerasTensor [B, H, W, channels]
    """
    x = layers.Conv2D(
        channels,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = normalize(x, train_bn, f"{name}_bn")
    return layers.Activation("relu", name=f"{name}_relu")(x)


def build_decoder(x, skips, channels, name, train_bn):
    """Double the size of the deepest features stage by stage, joining the encoder's on the way.

    With fewer than five stages the map's pixels come out of the last one in blocks, a channel each
    (sub-pixel convolution, Shi et al. 2016), which spares the stage at full size, the dearest one.

    What enters a stage with more channels than the stage has is first brought down to as many by a
    1 x 1 convolution, the deeper features before they grow: most of the weights (at the depths of a
    ResNet) and of the work (at full size) of a 3 x 3 convolution of all channels are saved so.

    Parameters
    ----------
    x : KerasTensor [B, H / 32, W / 32, C]
    skips : sequence of KerasTensor
        Features at `STRIDES`, in their order.
    channels : sequence of int
        Of each stage, one to five.
    name : str
        Of the map. The layers of the stage of stride 16 are `decoder_<name>_16_up`, `..._16_skip`,
        `..._16_conv` and `..._16_bn`, and so on; the last layer is `decoder_<name>_map`.
    train_bn : bool or None
        See `mrcnn.backbone.BatchNorm`.

    Returns
    -------
    KerasTensor [B, H, W, 1]
        Probabilities, float32 under any dtype policy.
    """
    for stride, skip, width in zip(STRIDES, skips, channels):
        stage = f"decoder_{name}_{stride}"
        x = _narrow(x, width, f"{stage}_up")
        x = layers.UpSampling2D(2, name=f"{stage}_upsampled")(x)
        skip = _narrow(skip, width, f"{stage}_skip")
        x = layers.Concatenate(name=f"{stage}_joined")([x, skip])
        x = conv_block(x, width, stage, train_bn)
    x = layers.Conv2D(
        stride**2, 1, activation="sigmoid", dtype="float32", name=f"decoder_{name}_map"
    )(x)
    return ops.depth_to_space(x, stride) if stride > 1 else x


def _narrow(x, channels, name):
    """Features of no more than so many channels."""
    if x.shape[-1] <= channels:
        return x
    return layers.Conv2D(channels, 1, use_bias=False, name=name)(x)
