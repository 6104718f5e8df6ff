"""The scores once more, written to be read and not to be fast: nuclei are sets of pixels, thresholds are fractions."""

from fractions import Fraction


def nuclei(labels):
    """One set of pixels a nucleus, in reading order."""
    found = {}
    for y, row in enumerate(labels.tolist()):
        for x, number in enumerate(row):
            if number:
                found.setdefault(number, set()).add((y, x))
    return list(found.values())


def iou(a, b):
    return Fraction(len(a & b), len(a | b))


def dsb_score(truth, predicted):
    truth, predicted = nuclei(truth), nuclei(predicted)
    if not truth and not predicted:
        return 1.0
    precisions = []
    for t in [Fraction(k, 20) for k in range(10, 20)]:
        found = sum(any(iou(a, b) > t for b in predicted) for a in truth)
        missed = sum(all(iou(a, b) <= t for b in predicted) for a in truth)
        invented = sum(all(iou(a, b) <= t for a in truth) for b in predicted)
        precisions.append(Fraction(found, found + missed + invented))
    return float(sum(precisions) / len(precisions))


def panoptic_quality(truth, predicted):
    truth, predicted = nuclei(truth), nuclei(predicted)
    if not truth and not predicted:
        return 1.0
    ious = [iou(a, b) for a in truth for b in predicted if iou(a, b) > Fraction(1, 2)]
    false_positives, false_negatives = len(predicted) - len(ious), len(truth) - len(ious)
    return float(sum(ious) / (len(ious) + Fraction(false_positives, 2) + Fraction(false_negatives, 2)))


def aggregated_jaccard(truth, predicted):
    truth, predicted = nuclei(truth), nuclei(predicted)
    if not truth and not predicted:
        return 1.0
    common, union, used = 0, 0, set()
    for a in truth:
        best = max(range(len(predicted)), key=lambda j: iou(a, predicted[j]), default=None)
        if best is None or not a & predicted[best]:
            union += len(a)
            continue
        common += len(a & predicted[best])
        union += len(a | predicted[best])
        used.add(best)
    union += sum(len(b) for j, b in enumerate(predicted) if j not in used)
    return common / union


def recall70(truth, predicted, low, high):
    """(found, n) of the true nuclei with low <= area < high."""
    group = [a for a in nuclei(truth) if low <= len(a) < high]
    return sum(any(iou(a, b) > Fraction(7, 10) for b in nuclei(predicted)) for a in group), len(group)


def splits(truth, predicted):
    return sum(sum(iou(a, b) > Fraction(1, 10) for b in nuclei(predicted)) > 1 for a in nuclei(truth))


def merges(truth, predicted):
    return splits(predicted, truth)
