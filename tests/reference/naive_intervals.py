"""The interval of a paired difference once more, as a loop: whole fields and whole seeds are put back and drawn again."""

import random
import statistics


def interval(differences, fields, *, resamples=10_000, seed=0):
    """`differences[s][n]` of seed s and image n, `fields[n]` the name of its field; 95 % percentiles of the mean."""
    dice = random.Random(seed)
    names = sorted(set(fields))
    means = []
    for _ in range(resamples):
        seeds = [dice.randrange(len(differences)) for _ in differences]
        images = []
        for _ in names:
            field = dice.choice(names)
            images += [n for n, own in enumerate(fields) if own == field]
        means.append(statistics.fmean(differences[s][n] for s in seeds for n in images))
    means.sort()
    return means[round(0.025 * (resamples - 1))], means[round(0.975 * (resamples - 1))]
