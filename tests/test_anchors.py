"""Anchors against Matterport's numbers and by hand."""

import numpy as np
import pytest
from helpers import golden_arrays

from mrcnn import utils
from mrcnn.config import Config

SCALES, RATIOS, STRIDES = (8, 16, 32, 64, 128), [0.5, 1, 2], [4, 8, 16, 32, 64]


class Small(Config):
    RPN_ANCHOR_SCALES = SCALES


@pytest.fixture(scope="module")
def numbers():
    return golden_arrays("utils_anchors")


def test_every_golden_number(numbers):
    results = {
        "generate_anchors_s8_r3_5x7_str4": utils.generate_anchors(8, RATIOS, (5, 7), 4, 1),
        "generate_anchors_scales2_str8_as2": utils.generate_anchors([16, 32], RATIOS, (6, 4), 8, 2),
    }
    for height, width in ((128, 128), (128, 192)):
        shapes = utils.compute_backbone_shapes(Small(), (height, width, 3))
        pyramid = utils.generate_pyramid_anchors(SCALES, RATIOS, shapes, STRIDES, 1)
        results[f"backbone_shapes_{height}x{width}"] = shapes
        results[f"pyramid_{height}x{width}"] = pyramid
        results[f"pyramid_norm_{height}x{width}"] = utils.norm_boxes(pyramid, (height, width))
        anchors = utils.pyramid_anchors(Small(), (height, width, 3))
        assert anchors.dtype == np.float32
        np.testing.assert_allclose(anchors, numbers[f"pyramid_{height}x{width}"], rtol=1e-6)
    assert set(results) == set(numbers)
    for key, result in results.items():
        assert result.dtype == numbers[key].dtype, key
        np.testing.assert_allclose(result, numbers[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_anchors_by_hand():
    anchors = utils.generate_anchors(16, [1, 4], (1, 2), 8, 1)
    square, wide = [-8, -8, 8, 8], [-4, -16, 4, 16]
    right = np.array([0, 8, 0, 8])
    np.testing.assert_array_equal(anchors, [square, wide, square + right, wide + right])


def test_sizes_that_do_not_divide_are_rounded_up():
    np.testing.assert_array_equal(
        utils.compute_backbone_shapes(Config(), (100, 130, 3)),
        [[25, 33], [13, 17], [7, 9], [4, 5], [2, 3]],
    )


def test_a_callable_backbone_is_asked_for_its_shapes():
    class Own(Small):
        def BACKBONE(self, image, **kwargs): ...

        def COMPUTE_BACKBONE_SHAPE(self, image_shape):
            return [[image_shape[0] // 2, 3]] * 5

    config = Own()
    np.testing.assert_array_equal(utils.compute_backbone_shapes(config, (64, 64, 3)), [[32, 3]] * 5)
    assert utils.pyramid_anchors(config, (64, 64, 3)).shape == (5 * 32 * 3 * len(RATIOS), 4)


def test_the_anchor_stride_thins_the_centres():
    class Sparse(Small):
        RPN_ANCHOR_STRIDE = 2

    dense = utils.pyramid_anchors(Small(), (128, 128, 3))
    sparse = utils.pyramid_anchors(Sparse(), (128, 128, 3))
    assert len(sparse) * 4 == len(dense)
    assert {tuple(box) for box in sparse} <= {tuple(box) for box in dense}
