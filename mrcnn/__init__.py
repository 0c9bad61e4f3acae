"""Mask R-CNN on Keras 3, compatible with Matterport's package of the same name."""

__version__ = "0.2.0"
