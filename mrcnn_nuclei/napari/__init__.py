"""Nuclei in napari, a viewer for images: `nucleus view`, and a plugin that detects on a layer.

`napari.yaml` is the plugin's manifest. Only `viewer` and `widget` need napari, when they are used.
"""
