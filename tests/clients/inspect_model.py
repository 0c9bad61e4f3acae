"""Look into data, model and weights, as notebooks for Matterport's package do.

Each function is what a notebook does in a few cells, and returns what it would show.
"""

import matplotlib.pyplot as plt
import numpy as np

import mrcnn.model as modellib
from mrcnn import utils, visualize
from mrcnn.model import log


def get_ax(rows=1, cols=1, size=4):
    """Axes for a grid of pictures."""
    return plt.subplots(rows, cols, figsize=(size * cols, size * rows))[1]


# The data


def inspect_masks(dataset, config, image_id):
    """Show an image's instances, whole and as mini-masks; return how much these lose."""
    image = dataset.load_image(image_id)
    mask, class_ids = dataset.load_mask(image_id)
    visualize.display_images([image, mask[:, :, 0]], titles=["image", "first mask"], cols=2)
    visualize.display_top_masks(image, mask, class_ids, dataset.class_names)
    bbox = utils.extract_bboxes(mask)
    log("bbox", bbox)
    visualize.display_instances(image, bbox, mask, class_ids, dataset.class_names, ax=get_ax())

    image, window, scale, padding, crop = utils.resize_image(
        image,
        min_dim=config.IMAGE_MIN_DIM,
        max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE,
    )
    mask = utils.resize_mask(mask, scale, padding, crop)
    bbox = utils.extract_bboxes(mask)
    mini = utils.minimize_mask(bbox, mask, config.MINI_MASK_SHAPE)
    log("mini", mini)
    restored = utils.expand_mask(bbox, mini, image.shape)
    overlaps = utils.compute_overlaps_masks(mask, restored)
    return np.diagonal(overlaps)


def inspect_loading(dataset, config, image_id):
    """Load an image by the calls of 2018 and of 2020; return both."""
    image, image_meta, class_ids, bbox, mask = modellib.load_image_gt(
        dataset, config, image_id, augment=False, use_mini_mask=False
    )
    log("mask", mask)
    modellib.load_image_gt(dataset, config, image_id, augment=True, use_mini_mask=True)
    later = modellib.load_image_gt(dataset, config, image_id, augmentation=None)
    return (image, image_meta, class_ids, bbox, mask), later


def inspect_anchors(dataset, config):
    """The pyramid's anchors, and how many a level has."""
    backbone_shapes = modellib.compute_backbone_shapes(config, config.IMAGE_SHAPE)
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        backbone_shapes,
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    )
    log("anchors", anchors)
    per_cell = len(config.RPN_ANCHOR_RATIOS)
    return anchors, [per_cell * h * w // config.RPN_ANCHOR_STRIDE**2 for h, w in backbone_shapes]


def inspect_batches(dataset, config, anchors):
    """Show what training would see: positive anchors and sampled ROIs of the first image."""
    g = modellib.data_generator(
        dataset, config, shuffle=True, random_rois=4, batch_size=4, detection_targets=True
    )
    inputs, outputs = next(g)
    images, image_meta, rpn_match, rpn_bbox, gt_class_ids, gt_boxes, gt_masks, _, rois = inputs
    class_ids, deltas, masks = outputs
    meta = modellib.parse_image_meta(image_meta)
    print([dataset.image_reference(int(image_id)) for image_id in meta["image_id"]])

    image = modellib.unmold_image(images[0], config)
    positive = np.where(rpn_match[0] == 1)[0]
    refined = utils.apply_box_deltas(
        anchors[positive], rpn_bbox[0, : len(positive)] * config.RPN_BBOX_STD_DEV
    )
    visualize.draw_boxes(image, boxes=anchors[positive], refined_boxes=refined, ax=get_ax())

    row, class_id = np.arange(rois.shape[1]), class_ids[0, :, 0]
    refined_rois = utils.apply_box_deltas(
        rois[0].astype(np.float32), deltas[0, row, class_id] * config.BBOX_STD_DEV
    )
    visualize.draw_rois(
        image, rois[0], refined_rois, masks[0, row, :, :, class_id], class_id, dataset.class_names
    )
    return inputs, outputs, refined


# The model


def inspect_detections(model, dataset, config, image_id):
    """Show detections of an image beside its truth; return its AP and its AP over ten IoUs."""
    image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
        dataset, config, image_id, use_mini_mask=False
    )
    r = model.detect([image], verbose=1)[0]
    found = r["rois"], r["class_ids"], r["scores"], r["masks"]
    truth = gt_bbox, gt_class_id, gt_mask
    names = dataset.class_names
    visualize.display_instances(image, found[0], found[3], found[1], names, found[2], ax=get_ax())
    visualize.display_differences(
        image, *truth, *found, names, ax=get_ax(), show_mask=False, show_box=False
    )
    AP, precisions, recalls, overlaps = utils.compute_ap(*truth, *found)
    visualize.plot_precision_recall(AP, precisions, recalls)
    visualize.plot_overlaps(gt_class_id, r["class_ids"], r["scores"], overlaps, names)
    gt_match, pred_match, _ = utils.compute_matches(*truth, *found, iou_threshold=0.3)
    print("found: ", np.sum(gt_match > -1), "wrong: ", np.sum(pred_match == -1))
    molded = model.detect_molded(image[np.newaxis], image_meta[np.newaxis], verbose=1)
    log("rois", molded[0]["rois"])
    return AP, utils.compute_ap_range(*truth, *found, verbose=1)


def inspect_rpn(model, dataset, config, image_id):
    """Follow the anchors through the proposal layer; return what it computes on the way."""
    image, _, gt_class_id, gt_bbox, _ = modellib.load_image_gt(
        dataset, config, image_id, use_mini_mask=False
    )
    model.get_anchors(image.shape)
    target_rpn_match, target_rpn_bbox = modellib.build_rpn_targets(
        image.shape, model.anchors, gt_class_id, gt_bbox, model.config
    )
    log("target_rpn_match", target_rpn_match)
    positive = model.anchors[target_rpn_match == 1]
    wanted = utils.apply_box_deltas(
        positive, target_rpn_bbox[: len(positive)] * model.config.RPN_BBOX_STD_DEV
    )
    visualize.draw_boxes(image, boxes=positive, refined_boxes=wanted, ax=get_ax())

    pillar = model.keras_model.get_layer("ROI").output
    # The name depends on TensorFlow's version.
    nms_node = model.ancestor(pillar, "ROI/rpn_non_max_suppression:0")
    if nms_node is None:
        nms_node = model.ancestor(pillar, "ROI/rpn_non_max_suppression/NonMaxSuppressionV3:0")
    rpn = model.run_graph(
        [image],
        [
            ("rpn_class", model.keras_model.get_layer("rpn_class").output),
            ("rpn_bbox", model.keras_model.get_layer("rpn_bbox").output),
            ("pre_nms_anchors", model.ancestor(pillar, "ROI/pre_nms_anchors:0")),
            ("refined_anchors", model.ancestor(pillar, "ROI/refined_anchors:0")),
            ("refined_anchors_clipped", model.ancestor(pillar, "ROI/refined_anchors_clipped:0")),
            ("post_nms_anchor_ix", nms_node),
            ("proposals", model.keras_model.get_layer("ROI").output),
        ],
    )
    limit = 20
    best = np.argsort(rpn["rpn_class"][0, :, 1])[::-1]
    visualize.draw_boxes(image, boxes=model.anchors[best[:limit]], ax=get_ax())
    ax = get_ax(1, 2)
    before, after, clipped = (
        utils.denorm_boxes(rpn[name][0], image.shape[:2])
        for name in ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped")
    )
    visualize.draw_boxes(image, boxes=before[:limit], refined_boxes=after[:limit], ax=ax[0])
    kept = rpn["post_nms_anchor_ix"][:limit]
    visualize.draw_boxes(image, refined_boxes=clipped[kept], ax=ax[1])

    proposals = utils.denorm_boxes(rpn["proposals"][0], image.shape[:2])
    for name, boxes in [("anchors", model.anchors), ("refined", after), ("proposals", proposals)]:
        recall, positive_ids = utils.compute_recall(boxes, gt_bbox, iou=0.5)
        print(f"{name:10} {len(boxes):6} recall {recall:.3f}, {len(positive_ids)} positive")
    return rpn, model.anchors


def inspect_heads(model, dataset, config, image_id):
    """Apply the heads' answers by hand; return the boxes and scores of the detections."""
    image = modellib.load_image_gt(dataset, config, image_id, use_mini_mask=False)[0]
    layer = model.keras_model.get_layer
    mrcnn = model.run_graph(
        [image],
        [
            ("proposals", layer("ROI").output),
            ("probs", layer("mrcnn_class").output),
            ("deltas", layer("mrcnn_bbox").output),
            ("masks", layer("mrcnn_mask").output),
            ("detections", layer("mrcnn_detection").output),
            ("roi_align", layer("roi_align_classifier").output),
        ],
    )
    class_ids = np.argmax(mrcnn["probs"][0], axis=1)
    row = np.arange(len(class_ids))
    scores = mrcnn["probs"][0, row, class_ids]
    proposals = utils.denorm_boxes(mrcnn["proposals"][0], image.shape[:2])
    deltas = mrcnn["deltas"][0, row, class_ids] * config.BBOX_STD_DEV
    refined = utils.apply_box_deltas(proposals.astype(np.float32), deltas).astype(np.int32)
    keep = np.where((class_ids > 0) & (scores >= config.DETECTION_MIN_CONFIDENCE))[0]
    kept = []
    for class_id in np.unique(class_ids[keep]):
        same = keep[class_ids[keep] == class_id]
        threshold = config.DETECTION_NMS_THRESHOLD
        kept.extend(same[utils.non_max_suppression(refined[same], scores[same], threshold)])
    visualize.draw_boxes(
        image,
        boxes=proposals[kept],
        refined_boxes=refined[kept],
        visibilities=np.where(class_ids[kept] > 0, 1, 0),
        captions=[f"{dataset.class_names[class_ids[i]]} {scores[i]:.3f}" for i in kept],
        title="Detections after NMS",
        ax=get_ax(),
    )

    detections = mrcnn["detections"][0]
    detections = detections[detections[:, 4] > 0]
    boxes = utils.denorm_boxes(detections[:, :4], image.shape[:2])
    for i, (box, class_id) in enumerate(zip(boxes, detections[:, 4].astype(np.int32))):
        if (box[2:] > box[:2]).all():
            utils.unmold_mask(mrcnn["masks"][0, i, :, :, class_id], box, image.shape)
    return mrcnn, scores[kept], detections[:, 5]


def inspect_activations(model, dataset, config, image_id, names):
    """Outputs of some layers for an image."""
    image = modellib.load_image_gt(dataset, config, image_id, use_mini_mask=False)[0]
    activations = model.run_graph(
        [image],
        [("input_image", model.keras_model.get_layer("input_image").output)]
        + [(name, model.keras_model.get_layer(name).output) for name in names],
    )
    plt.imshow(modellib.unmold_image(activations["input_image"][0], config))
    maps = np.transpose(activations[names[0]][0, :, :, :4], [2, 0, 1])
    visualize.display_images(maps, cols=4)
    return image, activations


# The weights


def inspect_weights(model):
    """List all weights with their ranges, and draw their histograms; return their layers."""
    visualize.display_weight_stats(model)
    layers = model.get_trainable_layers()
    for layer in layers[:2]:
        for weight, tensor in zip(layer.get_weights(), layer.weights):
            ax = get_ax()
            ax.set_title(f"{layer.name}/{tensor.name}")
            ax.hist(weight.flatten(), 50)
    return layers
