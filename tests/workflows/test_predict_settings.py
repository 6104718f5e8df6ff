"""`predict --set`: how the answers of a segmenter are read."""

import pytest

from nucstyle.data.run_folder import read_config


def nuclei(run):
    """Score and area of each nucleus."""
    names, *lines = [line.split(",") for line in (run / "objects.csv").read_text().splitlines()]
    return [(float(line[names.index("score")]), int(line[names.index("area_px")])) for line in lines]


def test_uncertain_and_small_nuclei_can_be_left_out(run_verb, write_pairs, tmp_path):
    images = write_pairs("data", fluorescence=2, stained=0) / "images"
    own = run_verb("predict", images, "--out", "own", "--tta", "none")
    certain = run_verb("predict", images, "--out", "certain", "--tta", "none", "--set", "inference.score=0.97")
    large = run_verb("predict", images, "--out", "large", "--set", "tta=none", "--set", "min_area_px=60")
    assert own.exit_code == certain.exit_code == large.exit_code == 0, (own.output, certain.output, large.output)
    every = nuclei(tmp_path / "own")
    assert sorted(nuclei(tmp_path / "certain")) == sorted(one for one in every if one[0] >= 0.97)
    assert sorted(nuclei(tmp_path / "large")) == sorted(one for one in every if one[1] >= 60)
    assert 0 < len(nuclei(tmp_path / "certain")) < len(every) > len(nuclei(tmp_path / "large")) > 0
    settled = read_config(tmp_path / "large")
    assert (settled["tta"], settled["inference"]["min_area_px"], settled["inference"]["score"]) == ("none", 60, 0.7)
    wide = run_verb(
        "predict", images, "--out", "wide", "--tta", "none", "--set", "score=0.3", "--set", "mask_threshold=0.1"
    )
    assert wide.exit_code == 0, wide.output
    assert sum(area for _, area in nuclei(tmp_path / "wide")) > 1.05 * sum(area for _, area in every)


@pytest.mark.parametrize(
    ("setting", "named", "remedy"),
    [
        ("score=0.2", "score=0.2", "nothing below 0.3"),
        ("score=2", "inference.score", "less than or equal to 1"),
        ("mask_treshold=0.4", "mask_treshold", "mask_threshold"),
        ("steps=3", "steps", "unknown key"),
        ("score", "score", "key=value"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(assert_refused, run_verb, write_pairs, setting, named, remedy):
    images = write_pairs("data", fluorescence=1, stained=0) / "images"
    assert_refused(run_verb("predict", images, "--out", "run", "--set", setting), named, remedy)
