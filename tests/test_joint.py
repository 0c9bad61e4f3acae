"""What a U-Net changes in a Mask R-CNN's nuclei, by hand and by what must always hold."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny import tiny_preset, write_tiny_unet, write_tiny_weights

from mrcnn.errors import InputError
from mrcnn.files import file_digest
from mrcnn.instances import Instances
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.joint import JointDetector, join, load_detector
from mrcnn_nuclei.overlay import save_png

SHAPE = (20, 40)


def squares(*boxes, scores=None):
    """Instances that fill their boxes (y1, x1, y2, x2)."""
    masks = [np.ones((y2 - y1, x2 - x1), bool) for y1, x1, y2, x2 in boxes]
    scores = np.ones(len(boxes)) if scores is None else scores
    return Instances(SHAPE, boxes, scores, [1] * len(boxes), masks)


NONE = squares()


def test_pixels_that_the_unet_rules_out_are_cut_off():
    foreground = np.full(SHAPE, 0.26)
    foreground[:, 8:] = 0.25
    joined = join(squares((2, 2, 12, 12), scores=[0.7]), foreground, NONE)
    assert joined.boxes.tolist() == [[2, 2, 12, 8]]
    assert joined.scores.tolist() == pytest.approx([0.7])


def test_nuclei_that_are_ruled_out_are_gone():
    foreground = np.ones(SHAPE)
    foreground[:, :12] = 0
    found = squares((2, 2, 12, 12), (2, 20, 12, 30), scores=[0.9, 0.4])
    joined = join(found, foreground, NONE)
    assert joined.boxes.tolist() == [[2, 20, 12, 30]]
    assert joined.scores.tolist() == pytest.approx([0.4])
    foreground[2:12, 11] = 1  # ten pixels are left
    assert len(join(found, foreground, NONE, min_area=10)) == 2
    assert len(join(found, foreground, NONE, min_area=11)) == 1


def test_what_two_claim_goes_to_the_better():
    found = squares((0, 0, 10, 10), (0, 5, 10, 15), scores=[0.6, 0.8])
    joined = join(found, np.ones(SHAPE), NONE)
    assert joined.boxes.tolist() == [[0, 0, 10, 5], [0, 5, 10, 15]]
    assert joined.scores.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("box", "score", "added"),
    [
        ((2, 20, 12, 30), 0.5, True),
        ((2, 20, 12, 30), 0.49, False),
        ((2, 8, 12, 18), 0.9, True),  # 40 of 100 pixels are claimed
        ((2, 7, 12, 17), 0.9, False),  # 50
    ],
)
def test_nuclei_that_only_the_unet_shows(box, score, added):
    found = squares((2, 2, 12, 12), scores=[0.3])
    joined = join(found, np.ones(SHAPE), squares(box, scores=[score]))
    assert len(joined) == 1 + added
    assert joined.boxes[0].tolist() == [2, 2, 12, 12]
    if added:  # it has what the other leaves
        assert joined.boxes[1].tolist() == [2, max(box[1], 12), 12, box[3]]
        assert joined.scores[1] == pytest.approx(score)


def test_what_is_cut_and_dropped_makes_room():
    foreground = np.ones(SHAPE)
    foreground[:, 6:] = 0.2
    found, others = squares((2, 2, 12, 12)), squares((2, 2, 12, 8), scores=[0.9])
    # Of the first 40 pixels are left, which are two thirds of the other.
    assert join(found, foreground, others, min_area=40).areas.tolist() == [40]
    assert join(found, foreground, others, min_area=41).areas.tolist() == [60]


def test_nothing_joins_nothing():
    assert len(join(NONE, np.zeros(SHAPE), NONE)) == 0
    assert join(NONE, np.ones(SHAPE), squares((2, 2, 6, 6))).boxes.tolist() == [[2, 2, 6, 6]]


LABELS = arrays.arrays(np.int32, (8, 9), elements=st.integers(0, 5))
MAPS = arrays.arrays(np.float32, (8, 9), elements=st.sampled_from(np.float32([0, 0.2, 0.3, 1])))


@settings(deadline=None, max_examples=100)
@given(LABELS, MAPS, LABELS, st.integers(0, 4), st.randoms(use_true_random=False))
def test_invariants(claimed, foreground, drawn, min_area, random):
    found, others = (Instances.from_label_map(each) for each in (claimed, drawn))
    scores = [random.random() for _ in range(len(others))]
    others = Instances.from_label_map(drawn, scores)
    joined = join(found, foreground, others, min_area)
    dense = joined.to_dense()
    assert dense.sum(axis=-1).max(initial=0) <= 1
    assert (joined.areas >= max(min_area, 1)).all()
    covered = dense.any(axis=-1)
    assert not (covered & (claimed == 0) & (drawn == 0)).any()
    assert not (covered & (foreground <= 0.25) & (drawn == 0)).any()
    if min_area <= 1:
        assert covered[(claimed > 0) & (foreground > 0.25)].all()
    # Without a U-Net's nuclei and with a map that rules nothing out, all stays as it was.
    same = join(found, np.ones(claimed.shape), Instances.empty(claimed.shape))
    np.testing.assert_array_equal(same.to_label_map(), found.to_label_map())


# Two networks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a Mask R-CNN and of a U-Net that finds something, and an image."""
    folder = tmp_path_factory.mktemp("joint")
    save_png(folder / "image.png", draw_tile(256, np.random.default_rng(0))[0])
    with tiny_preset():
        settings = {"MIN_NUCLEUS_AREA": 4, "FOREGROUND_THRESHOLD": 0.4}
        yield (
            write_tiny_weights(folder / "tiny.h5"),
            write_tiny_unet(folder / "unet.h5", settings),
            folder / "image.png",
        )


def test_a_unet_corrects_what_is_found(files):
    weights, unet, _ = files
    image = draw_tile(256, np.random.default_rng(0))[0]
    settings = {"DETECTION_MIN_CONFIDENCE": 0.3, "MARKER_DEPTH": 0.2, "MASK_NMS": "greedy"}
    joint = load_detector(weights, settings=settings, unet=unet)
    assert isinstance(joint, JointDetector)
    assert joint.unet.config.MARKER_DEPTH == 0.2 and joint.unet.config.MASK_NMS == "none"
    assert joint.config.MASK_NMS == "greedy" and not hasattr(joint.config, "MARKER_DEPTH")

    found, maps = joint.rcnn.detect(image), joint.unet.predict(image)
    expected = join(found, maps[..., 0], joint.unet.model.segment(maps), 4)
    nuclei = joint.detect(image)
    assert 0 < len(nuclei) != len(found)
    np.testing.assert_array_equal(nuclei.to_label_map(), expected.to_label_map())
    np.testing.assert_array_equal(nuclei.scores, expected.scores)

    again = pickle.loads(pickle.dumps(joint.recipe)).load()
    assert again.digest == joint.digest == f"{file_digest(weights)}+{file_digest(unet)}"
    np.testing.assert_array_equal(again.detect(image).to_label_map(), nuclei.to_label_map())
    assert len(joint.detect(np.full((64, 64, 3), 240, np.uint8))) == 0


def test_which_networks_join(files):
    weights, unet, _ = files
    assert isinstance(load_detector(weights), Detector)
    assert isinstance(load_detector(weights, unet="none"), Detector)
    for pair, words in (
        ((unet, unet), "unet.h5: is a U-Net's; --unet corrects what"),
        ((weights, weights), "tiny.h5: is not a U-Net's; give --unet weights of one"),
    ):
        with pytest.raises(InputError, match=words):
            load_detector(pair[0], unet=pair[1])
    with pytest.raises(InputError, match="MASK_DILATION = 1: .* give --unet none"):
        load_detector(weights, settings={"MASK_DILATION": 1}, unet=unet)


@pytest.mark.parametrize("name", ["MPP", "INVERT_DARK", "CLAHE"])
def test_networks_that_see_other_images_do_not_join(name, files, tmp_path):
    weights, _, _ = files
    unet = write_tiny_unet(tmp_path / "other.h5", {name: {"INVERT_DARK": True}.get(name, 0.5)})
    with pytest.raises(InputError, match=f"other.h5: has {name} = .* by --set {name}="):
        load_detector(weights, unet=unet)
    config = load_detector(weights).config
    load_detector(weights, settings={name: getattr(config, name)}, unet=unet)


def test_results_tell_both_networks_and_are_made_anew_for_other_settings(files, tmp_path, capsys):
    weights, unet, image = map(str, files)
    command = ["detect", "--image", image, "--weights", weights, "--output", str(tmp_path)]
    command += ["--write", "labels", "--unet", unet]
    for options, words in (
        ([], "in 1 image; wrote"),
        ([], "nothing to do"),
        (["--set", "FOREGROUND_THRESHOLD=0.6"], "in 1 image; wrote"),
        (["--set", "DETECTION_MIN_CONFIDENCE=0.4"], "in 1 image; wrote"),
        (["--unet", "none"], "in 1 image; wrote"),
    ):
        assert main([*command, *options]) == 0
        assert words in capsys.readouterr().out, options
        told = json.loads((tmp_path / "detection.json").read_text())
        assert told["weights"] == weights
        assert told.get("unet") == (None if options == ["--unet", "none"] else unet)
