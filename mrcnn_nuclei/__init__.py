"""Instance segmentation of cell nuclei in H&E images, on `mrcnn`."""

from mrcnn import __version__

__all__ = ["Instances", "__version__"]


def __getattr__(name):
    if name == "Instances":
        from mrcnn.instances import Instances

        return Instances
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
