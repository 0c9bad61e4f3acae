"""The loss of one probability map: cross-entropy of its pixels, and soft IoU of the whole."""

from keras import ops

EPSILON = 1e-7
"""Probabilities are kept so far from 0 and 1, where the logarithm ends."""

SMOOTHING = 1.0
"""Pixels added to intersection and union: an empty map, rightly predicted, has an IoU of 1."""


def map_loss(targets, probabilities, weights, focal_gamma=0.0, soft_iou_weight=1.0):
    """How far the probabilities of one map are from what they should be.

    Cross-entropy counts each pixel alike, so that a map with few positives, such as the borders
    between nuclei, is nearly right when it is empty. Soft IoU does not see true negatives and makes
    up for that. Positives have no weight of their own in the cross-entropy: probabilities would
    no longer be such, and a threshold of 0.5 would no longer mean even odds.

    Parameters
    ----------
    targets : float32 tensor [B, H, W]
        {0, 1}.
    probabilities : float32 tensor [B, H, W]
    weights : float32 tensor [B, H, W]
        How much each pixel counts in the cross-entropy, whose weighted mean is taken, and in the
        soft IoU; one of weight 0 does not exist.
    focal_gamma : float
        Exponent of the focal loss (Lin et al. 2017), which turns from the pixels already right;
        0 is plain cross-entropy.
    soft_iou_weight : float
        Of 1 - `soft_iou`, relative to the cross-entropy.

    Returns
    -------
    float32 scalar
    """
    targets = ops.cast(targets, "float32")
    probabilities = ops.cast(probabilities, "float32")
    weights = ops.cast(weights, "float32")
    entropy = _cross_entropy(targets, probabilities, focal_gamma)
    entropy = ops.sum(weights * entropy) / ops.maximum(ops.sum(weights), EPSILON)
    return entropy + soft_iou_weight * (1.0 - soft_iou(targets, probabilities, weights))


def soft_iou(targets, probabilities, weights):
    """Intersection over union of a map with its target, for probabilities in place of a decision.

    It is taken over the batch as one: an image in which a map has a handful of pixels, or none,
    would otherwise weigh as much as one with thousands, and its gradient would be mostly noise.

    Parameters
    ----------
    targets, probabilities, weights : float32 tensor [B, H, W]

    Returns
    -------
    float32 scalar
        0 to 1; 1 where both are empty.
    """
    intersection = ops.sum(weights * targets * probabilities)
    union = ops.sum(weights * (targets + probabilities)) - intersection
    return (intersection + SMOOTHING) / (union + SMOOTHING)


def _cross_entropy(targets, probabilities, focal_gamma):
    """Of each pixel, [B, H, W]."""
    probabilities = ops.clip(probabilities, EPSILON, 1.0 - EPSILON)
    # The probability given to the pixel's true class.
    right = targets * probabilities + (1.0 - targets) * (1.0 - probabilities)
    entropy = -ops.log(right)
    return entropy * ops.power(1.0 - right, focal_gamma) if focal_gamma else entropy
