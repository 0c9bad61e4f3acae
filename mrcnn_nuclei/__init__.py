"""Instance segmentation of cell nuclei in H&E images: Mask R-CNN, U-Net and Mask-NMS on `mrcnn`."""

__version__ = "0.1.0"
__all__ = ["Instances", "__version__"]


def __getattr__(name):
    if name == "Instances":
        from mrcnn.instances import Instances

        return Instances
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
