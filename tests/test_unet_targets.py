"""The U-Net's targets against drawings and a plain reference that takes one nucleus at a time."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from timing import shortest

from mrcnn.errors import InputError
from mrcnn_nuclei.image_files import read_label_map
from mrcnn_nuclei.unet.targets import boundary_weights, make_targets

FOREGROUND, BORDER, INTERIOR = range(3)

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
SPECKLES = arrays.arrays(np.int32, SHAPES, elements=st.sampled_from([0, 1, 2, 7, 900]))


@st.composite
def rectangles(draw):
    """Label maps of rectangles that cover, touch, hold or cut each other."""
    height, width = draw(SHAPES)
    labels = np.zeros((height, width), np.int32)
    for _ in range(draw(st.integers(0, 8))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        label = draw(st.sampled_from([0, 1, 2, 3, 50, 51, 2**31 - 1]))
        labels[y : y + draw(st.integers(1, 14)), x : x + draw(st.integers(1, 14))] = label
    return labels


def reference(labels):
    """The definition in words, at full size for each nucleus."""
    reached = np.zeros(labels.shape, int)
    interior = np.zeros(labels.shape, bool)
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        reached += ndimage.binary_dilation(mask, iterations=2)
        once = ndimage.binary_erosion(mask, border_value=1)
        twice = ndimage.binary_erosion(once, border_value=1)
        interior |= next(left for left in (twice, once, mask) if left.any())
    return np.stack([labels > 0, reached >= 2, interior], axis=-1)


def drawing(rows):
    return np.array([[int(pixel) for pixel in row.replace(".", "0")] for row in rows.split()])


def test_two_nuclei_that_touch():
    labels = drawing("""
        ............
        .1111112222.
        .1111112222.
        .1111112222.
        .1111112222.
        .1111112222.
        ............
    """)
    targets = make_targets(labels)
    assert targets.dtype == np.float32 and targets.shape == (7, 12, 3)
    np.testing.assert_array_equal(targets[..., FOREGROUND], labels > 0)
    border = drawing("""
        ......11....
        .....1111...
        .....1111...
        .....1111...
        .....1111...
        .....1111...
        ......11....
    """)
    np.testing.assert_array_equal(targets[..., BORDER], border)
    interior = drawing("""
        ............
        ............
        ............
        ...11.......
        ............
        ............
        ............
    """)
    interior[2:5, 8:10] = 1  # four wide: two erosions leave nothing, one leaves the middle
    np.testing.assert_array_equal(targets[..., INTERIOR], interior)


def test_a_gap_of_four_pixels_has_no_border_and_of_three_its_middle():
    labels = np.zeros((5, 16), np.int32)
    labels[:, 0:2], labels[:, 6:9], labels[:, 13:] = 1, 2, 5
    expected = np.zeros((5, 16))
    np.testing.assert_array_equal(make_targets(labels)[..., BORDER], expected)
    labels[:, 2] = 1
    expected[:, 4] = 1
    np.testing.assert_array_equal(make_targets(labels)[..., BORDER], expected)


def test_small_nuclei_keep_an_interior():
    labels = np.zeros((9, 20), np.int32)
    labels[1, 1] = 1  # a pixel
    labels[1, 5:9] = 2  # a line
    labels[4:7, 1:4] = 3  # loses all to the second erosion
    labels[3:8, 8:13] = 4
    interior = np.zeros((9, 20))
    interior[1, 1] = interior[1, 5:9] = interior[5, 2] = interior[5, 10] = 1
    np.testing.assert_array_equal(make_targets(labels)[..., INTERIOR], interior)


def test_the_edge_of_the_image_does_not_erode():
    targets = make_targets(np.ones((4, 3), np.int32))
    np.testing.assert_array_equal(targets, np.broadcast_to([1, 0, 1], (4, 3, 3)))


def test_crowds_count_as_background():
    labels = drawing("1110022..222")
    crowded = labels.copy()
    crowded[0, 3:5] = -1
    np.testing.assert_array_equal(make_targets(crowded), make_targets(labels))


@settings(deadline=None, max_examples=150)
@given(rectangles() | SPECKLES)
@example(np.zeros((5, 7), np.int32))
@example(np.full((5, 7), 2**31 - 1, np.int32))
def test_targets_equal_the_reference(labels):
    targets = make_targets(labels)
    np.testing.assert_array_equal(targets, reference(labels))
    assert set(np.unique(labels[targets[..., INTERIOR] > 0])) == set(np.unique(labels[labels > 0]))


def test_labels_beyond_what_float32_holds():
    labels = np.zeros((8, 8), np.int64)
    labels[:, :4], labels[:, 4:] = 2**40, 2**40 + 1
    np.testing.assert_array_equal(make_targets(labels), reference(labels))


@pytest.fixture(scope="module")
def densest(monuseg):
    return read_label_map(monuseg / "labels" / "TCGA-HE-7130-01Z-00-DX1.png")


def test_targets_of_a_real_image_equal_the_reference(densest):
    crop = densest[400:600, :200]
    assert len(np.unique(crop)) > 50
    np.testing.assert_array_equal(make_targets(crop), reference(crop))


def test_the_densest_image_is_fast(densest):
    assert densest.shape == (1000, 1000) and densest.max() == 1862
    seconds, _ = shortest(make_targets, densest, runs=5, limit=0.2)
    assert seconds < 0.2


@pytest.mark.parametrize("labels", [np.zeros((4, 4, 1), int), np.zeros((4, 4))])
def test_what_is_no_label_map_is_refused(labels):
    with pytest.raises(InputError, match="label map must be"):
        make_targets(labels)
    with pytest.raises(InputError, match="label map must be"):
        boundary_weights(labels, 1)


def test_boundary_weights_fall_off_like_a_bell():
    labels = np.zeros((9, 40), np.int32)
    labels[:, :20], labels[:, 20:30] = 1, 2
    weights = boundary_weights(labels, 10, sigma=3)
    assert weights.dtype == np.float32 and weights.shape == labels.shape
    columns = np.arange(40)
    distance = np.maximum(np.maximum(18 - columns, columns - 21), 0)  # the border: 18 to 21
    expected = np.broadcast_to(1 + 10 * np.exp(-(distance**2) / 18), labels.shape)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_distance_is_euclidean():
    labels = np.zeros((40, 40), np.int32)
    labels[20, 18], labels[20, 22] = 1, 2  # the border: one pixel between them
    y, x = np.indices(labels.shape)
    expected = 1 + 3 * np.exp(-((y - 20) ** 2 + (x - 20) ** 2) / 50)
    np.testing.assert_allclose(boundary_weights(labels, 3), expected, rtol=1e-4)


@pytest.mark.parametrize("labels", [np.zeros((6, 7), np.int32), np.ones((6, 7), np.int32)])
def test_without_border_all_pixels_weigh_the_same(labels):
    weights = boundary_weights(labels, 10)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.ones((6, 7)))
