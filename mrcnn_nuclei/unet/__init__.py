"""The multi-task U-Net: foreground, touching borders and interiors, joined by a watershed."""
