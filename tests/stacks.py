"""Dense stacks of masks for Hypothesis."""

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@st.composite
def dense_masks(draw):
    """Up to four masks that may overlap or be empty, [H, W, N]."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    return draw(hnp.arrays(bool, (*shape, draw(st.integers(0, 4)))))
