"""Feature pyramid network (Lin et al. 2017)."""

from keras import layers


def build_pyramid(stages, channels):
    """Add the top-down pathway to a backbone.

    Parameters
    ----------
    stages : list of KerasTensor
        C2 to C5, each half as large as the one before.
    channels : int
        Of every level of the pyramid.

    Returns
    -------
    list of KerasTensor
        P2 to P6; P6 is every second pixel of P5, for the anchors of the largest scale only.
    """
    c2, c3, c4, c5 = stages
    p5 = layers.Conv2D(channels, 1, name="fpn_c5p5")(c5)
    p4 = _merge(p5, c4, channels, 4)
    p3 = _merge(p4, c3, channels, 3)
    p2 = _merge(p3, c2, channels, 2)
    levels = [
        layers.Conv2D(channels, 3, padding="same", name=f"fpn_p{level}")(x)
        for level, x in ((2, p2), (3, p3), (4, p4), (5, p5))
    ]
    p6 = layers.MaxPooling2D(1, strides=2, name="fpn_p6")(levels[-1])
    return [*levels, p6]


def _merge(coarser, lateral, channels, level):
    upsampled = layers.UpSampling2D(2, name=f"fpn_p{level + 1}upsampled")(coarser)
    lateral = layers.Conv2D(channels, 1, name=f"fpn_c{level}p{level}")(lateral)
    return layers.Add(name=f"fpn_p{level}add")([upsampled, lateral])
