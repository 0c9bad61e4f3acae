"""A small residual network, for training and detection on two CPU cores."""

from keras import layers

from mrcnn.backbone import conv_block, identity_block, normalize


def compact_resnet(input_image, stage5=True, train_bn=None):
    """Bottleneck stages as those of ResNet-50, two blocks and an eighth to a quarter of its width.

    Layers are called `res2...` to `res5...`, so that "4+" means the same as for the large networks.

    Parameters
    ----------
    input_image : KerasTensor [B, H, W, C]
    stage5 : bool
    train_bn : bool or None
        See `mrcnn.backbone.BatchNorm`.

    Returns
    -------
    list
        The feature maps C1 to C5, with strides 2, 4, 8, 16 and 32.
    """
    # Two convolutions in place of one of 7 x 7 and a pooling keep the small nuclei's edges.
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv1")(input_image)
    x = normalize(x, train_bn, "bn_conv1")
    c1 = x = layers.Activation("relu")(x)
    maps = [c1]
    for stage, width in ((2, 32), (3, 64), (4, 96), (5, 128)):
        filters = [width, width, 4 * width]
        x = conv_block(x, 3, filters, stage, "a", use_bias=False, train_bn=train_bn)
        x = identity_block(x, 3, filters, stage, "b", use_bias=False, train_bn=train_bn)
        maps.append(x)
        if stage == 4 and not stage5:
            return [*maps, None]
    return maps
