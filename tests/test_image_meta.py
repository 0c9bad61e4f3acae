"""The meta vector against numbers of Matterport's code."""

import numpy as np
import pytest
from helpers import golden_arrays

from mrcnn.image_meta import compose_image_meta, parse_image_meta, parse_image_meta_graph


@pytest.fixture(scope="module")
def numbers():
    return golden_arrays("model_numpy")


@pytest.fixture
def meta():
    return compose_image_meta(
        17, (100, 120, 3), (128, 128, 3), (10, 0, 117, 128), 1.0666667, np.array([1, 0, 1])
    )


def test_compose_is_matterports(numbers, meta):
    np.testing.assert_array_equal(meta, numbers["meta"])


def test_parse_is_matterports(numbers, meta):
    parsed = parse_image_meta(np.stack([meta, meta + 1]))
    expected = {key[7:]: numbers[key] for key in numbers if key.startswith("parsed_")}
    assert parsed.keys() == expected.keys()
    for name, values in parsed.items():
        assert values.dtype == expected[name].dtype
        np.testing.assert_array_equal(values, expected[name])


def test_graph_slices_alike_but_keeps_the_type(meta):
    batch = np.stack([meta, meta + 1])
    tensors, parsed = parse_image_meta_graph(batch), parse_image_meta(batch)
    assert tensors.keys() == parsed.keys()
    for name, values in tensors.items():
        assert values.dtype == batch.dtype
        np.testing.assert_array_equal(values.astype(parsed[name].dtype), parsed[name])


def test_active_class_ids_take_what_is_left():
    meta = compose_image_meta(1, (5, 6, 3), (8, 8, 3), (0, 0, 5, 6), 1, np.arange(80) % 2)
    assert meta.shape == (12 + 80,)
    assert parse_image_meta(meta[np.newaxis])["active_class_ids"].tolist() == [[0, 1] * 40]
