"""OpenCV, with a readable message on machines that lack the system libraries it links to.

`opencv-python` needs libGL, libglib and X11 libraries that slim images leave out. Its headless twin
needs none of them but installs the same `cv2` folder, so the two must not be mixed.
"""

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be imported ({error}): install its system libraries "
        "(Debian, Ubuntu: apt-get install libgl1 libglib2.0-0), or replace the package "
        "(pip uninstall -y opencv-python && pip install opencv-python-headless)"
    ) from error

__all__ = ["cv2"]
