"""Training on label maps: the losses of torchvision, without its masks, and slivers that teach nothing."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from nucstyle.core.rng import generator, seeded
from nucstyle.core.sample import Sample
from nucstyle.segmentation.dense import cut_masks, is_ignored, lean_iou
from nucstyle.segmentation.targets import to_detection_target


def target_of(sample, **options):
    return to_detection_target(sample, min_side_px=options.get("min_side_px", 1))


def test_masks_are_those_that_torchvision_cuts_out_of_full_size_masks(sample_of):
    labels = sample_of(0).labels
    count = int(labels.max())
    numbers = (torch.arange(100) % count + 1).to(torch.int32)
    corner = torch.rand(100, 2, generator=generator("corner")) * 70
    boxes = torch.cat([corner, corner + 5 + torch.rand(100, 2, generator=generator("side")) * 30], dim=1)
    full = (labels == torch.arange(1, count + 1)[:, None, None]).to(torch.uint8)
    wanted = project_masks_on_boxes(full, boxes, numbers.long() - 1, 28)
    assert 0 < float(wanted.mean()) < 1
    torch.testing.assert_close(cut_masks(labels, numbers, boxes, 28), wanted)
    assert cut_masks(labels, numbers[:0], boxes[:0], 28).shape == (0, 28, 28)


def test_the_losses_are_torchvisions_where_nothing_is_ignored(segmenter, sample_of, monkeypatch):
    """The same weights, the same random choices: once by label maps, once by torchvision's own forward and masks."""
    images, targets = [], []
    for number in (0, 1):
        sample = sample_of(number, size=(64, 64))
        images.append(sample.image)
        targets.append(target_of(sample))
    with seeded("choice"):
        ours = segmenter.losses(images, targets)
    masks = [(one["label_map"] == one["numbers"][:, None, None]).to(torch.uint8) for one in targets]
    with monkeypatch.context() as patched:
        patched.setattr(type(segmenter.network.roi_heads), "forward", RoIHeads.forward)
        patched.setattr(
            type(segmenter.network.rpn), "assign_targets_to_anchors", RegionProposalNetwork.assign_targets_to_anchors
        )
        with seeded("choice"):
            theirs = segmenter.losses(images, [{**one, "masks": own} for one, own in zip(targets, masks, strict=True)])
    assert ours.keys() == theirs.keys()
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name], msg=name)


def test_overlaps_are_torchvisions():
    corner = torch.rand(100, 2, generator=generator("overlap")) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(100, 2, generator=generator("size")) * 30], dim=1)
    assert torch.equal(lean_iou(boxes[:70], boxes), box_iou(boxes[:70], boxes))
    assert lean_iou(boxes[:0], boxes).shape == (0, 100)


def sliver_at_the_border():
    labels = torch.zeros(64, 64, dtype=torch.int32)
    labels[10:30, :2] = 1  # cut off by the left border
    labels[40:56, 30:46] = 2
    return target_of(Sample(id="cut", image=torch.zeros(3, 64, 64), labels=labels), min_side_px=3)


def test_boxes_on_a_sliver_are_ignored_by_what_lies_in_the_image():
    target = sliver_at_the_border()
    boxes = torch.tensor(
        [
            [0.0, 10.0, 2.0, 30.0],  # the sliver itself
            [-6.0, 11.0, 2.0, 27.0],  # an anchor that hangs over the border
            [0.0, 10.0, 20.0, 30.0],  # far wider than the sliver
            [30.0, 40.0, 46.0, 56.0],  # the nucleus that is taught
            [10.0, 0.0, 20.0, 9.0],  # background
        ]
    )
    assert is_ignored(boxes, target).tolist() == [True, True, False, False, False]
    bare = {**target, "ignored": target["ignored"][:0]}
    assert not is_ignored(boxes, bare).any()


def test_anchors_on_slivers_are_neither_nuclei_nor_background(segmenter):
    target = sliver_at_the_border()
    anchors = torch.tensor([[-6.0, 11.0, 2.0, 27.0], [30.0, 40.0, 46.0, 56.0], [10.0, 0.0, 20.0, 9.0]])
    (labels,), _ = segmenter.network.rpn.assign_targets_to_anchors([anchors], [target])
    assert labels.tolist() == [-1, 1, 0]
    bare = {**target, "ignored": target["ignored"][:0]}
    (labels,), _ = segmenter.network.rpn.assign_targets_to_anchors([anchors], [bare])
    assert labels.tolist() == [0, 1, 0]


def test_regions_on_slivers_are_not_looked_at(segmenter, monkeypatch):
    seen = []
    heads = segmenter.network.roi_heads

    def select(proposals, targets):
        seen.append(proposals[0])
        return type(heads).select_training_samples(heads, proposals, targets)

    monkeypatch.setattr(heads, "select_training_samples", select)
    target = sliver_at_the_border()
    maps = segmenter.see(torch.zeros(3, 64, 64)).maps
    segmenter.network.train()
    proposals = [torch.tensor([[0.0, 10.0, 2.0, 30.0], [30.0, 40.0, 46.0, 56.0], [10.0, 0.0, 20.0, 9.0]])]
    heads(maps, proposals, [(64, 64)], [target])
    assert seen[0].tolist() == proposals[0][1:].tolist()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
def test_hundreds_of_nuclei_train_without_hundreds_of_masks():
    """375 nuclei in a field of 512 x 512: the peak of a step with them is that of a step with one, but for little."""
    script = """
        import sys
        import torch
        from nucstyle.core.sample import Sample
        from nucstyle.segmentation.backbone import PyramidTrunk
        from nucstyle.segmentation.detector import InferenceConfig, Segmenter, SegmenterConfig
        from nucstyle.segmentation.targets import to_detection_target

        count = int(sys.argv[1])
        labels = torch.zeros(512, 512, dtype=torch.int32)
        for number in range(count):
            row, column = divmod(number, 20)
            labels[26 * row : 26 * row + 16, 25 * column : 25 * column + 16] = number + 1
        sample = Sample(id="dense", image=(labels > 0).float().expand(3, -1, -1).contiguous(), labels=labels)
        segmenter = Segmenter(SegmenterConfig(), InferenceConfig(), trunk=PyramidTrunk(96))
        target = to_detection_target(sample, min_side_px=3)
        assert len(target["boxes"]) == count
        sum(segmenter.losses([sample.image], [target]).values()).backward()
        with open("/proc/self/status") as file:  # getrusage begins with the peak of the process that started this one
            print("peak", next(line.split()[1] for line in file if line.startswith("VmHWM")))
    """
    peaks = []
    for count in (1, 375):
        command = [sys.executable, "-c", textwrap.dedent(script), str(count)]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert finished.returncode == 0, finished.stderr
        peaks.append(float(finished.stdout.split("peak")[1]) / 1024)
    assert peaks[0] > 200
    assert peaks[1] - peaks[0] < 200  # MiB; 375 masks of 512 x 512 floats are 375 MiB
