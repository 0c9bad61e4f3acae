"""Small backbones, for training and detection on two CPU cores: a residual network that starts from
random weights, and EfficientNet-Lite0, for which there are ImageNet's."""

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
    c1 = x = _stem(input_image, train_bn)
    maps = [c1]
    for stage, width in ((2, 32), (3, 64), (4, 96), (5, 128)):
        filters = [width, width, 4 * width]
        x = conv_block(x, 3, filters, stage, "a", use_bias=False, train_bn=train_bn)
        x = identity_block(x, 3, filters, stage, "b", use_bias=False, train_bn=train_bn)
        maps.append(x)
        if stage == 4 and not stage5:
            return [*maps, None]
    return maps


def _stem(image, train_bn):
    """The first convolution of both backbones, of stride 2."""
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv1")(image)
    x = normalize(x, train_bn, "bn_conv1")
    return layers.Activation("relu")(x)


LITE_STAGES = (
    (1, 3, 1, 16, 1, 1),
    (2, 3, 6, 24, 2, 2),
    (3, 5, 6, 40, 2, 2),
    (4, 3, 6, 80, 3, 2),
    (4, 5, 6, 112, 3, 1),
    (5, 5, 6, 192, 4, 2),
    (5, 3, 6, 320, 1, 1),
)
"""Of EfficientNet-B0 (Tan and Le 2019, table 1): stage, kernel, expansion, channels, blocks, stride
of the first block. Two of its stages are one here where the second does not change the stride."""


def lite_blocks():
    """The blocks of EfficientNet-Lite0, first to last.

    Yields
    ------
    name : str
        Stage and letter, such as `4d`.
    kernel, expansion, channels, stride : int
    """
    letters = {}
    for stage, kernel, expansion, channels, blocks, stride in LITE_STAGES:
        for block in range(blocks):
            letter = letters[stage] = letters.get(stage, -1) + 1
            name = f"{stage}{chr(ord('a') + letter)}"
            yield name, kernel, expansion, channels, stride if block == 0 else 1


def efficientnet_lite0(input_image, stage5=True, train_bn=None):
    """EfficientNet-Lite0 without its top: 3 million weights, nearly all in stages 4 and 5.

    B0 (Tan and Le 2019) without squeeze and excitation and with ReLU6, as Google published it for
    small devices in 2020; here with ReLU, which TensorFlow joins to the normalisation before it.
    Layers are called as those of a ResNet's bottlenecks: `res4d_branch2a` expands, `2b` is the
    depthwise convolution, `2c` projects.

    Parameters
    ----------
    input_image : KerasTensor [B, H, W, C]
        Height and width are multiples of 32.
    stage5 : bool
    train_bn : bool or None
        See `mrcnn.backbone.BatchNorm`.

    Returns
    -------
    list
        The feature maps C1 to C5, with strides 2, 4, 8, 16 and 32.
    """
    x = _stem(input_image, train_bn)
    maps = {}
    for name, kernel, expansion, channels, stride in lite_blocks():
        if name == "5a" and not stage5:
            return [maps[stage] for stage in "1234"] + [None]
        x = _inverted_bottleneck(x, kernel, expansion, channels, stride, name, train_bn)
        maps[name[0]] = x
    return [maps[stage] for stage in "12345"]


def _inverted_bottleneck(x, kernel, expansion, channels, stride, name, train_bn):
    shortcut = x
    if expansion > 1:
        x = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"res{name}_branch2a")(x)
        x = normalize(x, train_bn, f"bn{name}_branch2a")
        x = layers.Activation("relu")(x)
    x = layers.DepthwiseConv2D(kernel, padding="same", use_bias=False, name=f"res{name}_branch2b")(
        x
    )
    if stride == 2:
        # What a strided convolution of an even side computes; its gradient is slow on CPUs.
        x = x[:, 1::2, 1::2]
    x = normalize(x, train_bn, f"bn{name}_branch2b")
    x = layers.Activation("relu")(x)
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"res{name}_branch2c")(x)
    x = normalize(x, train_bn, f"bn{name}_branch2c")
    if stride == 1 and shortcut.shape[-1] == channels:
        x = layers.Add(name=f"res{name}_out")([x, shortcut])
    return x
