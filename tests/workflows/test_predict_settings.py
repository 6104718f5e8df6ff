"""`predict --set`: how the answers of a segmenter are read."""

from importlib import resources

import pytest

from nucstyle.data.dataset import open_dataset
from nucstyle.data.run_folder import read_config


def nuclei(run):
    """Score and area of each nucleus."""
    names, *lines = [line.split(",") for line in (run / "objects.csv").read_text().splitlines()]
    return [(float(line[names.index("score")]), int(line[names.index("area_px")])) for line in lines]


def test_uncertain_and_small_nuclei_can_be_left_out(run_verb, write_pairs, tmp_path):
    images = write_pairs("data", fluorescence=2, stained=0) / "images"
    own = run_verb("predict", images, "--out", "own", "--tta", "none")
    certain = run_verb("predict", images, "--out", "certain", "--tta", "none", "--set", "inference.score=0.97")
    large = run_verb("predict", images, "--out", "large", "--tta", "none", "--set", "min_area_px=60")
    assert own.exit_code == certain.exit_code == large.exit_code == 0, (own.output, certain.output, large.output)
    every = nuclei(tmp_path / "own")
    assert sorted(nuclei(tmp_path / "certain")) == sorted(one for one in every if one[0] >= 0.97)
    assert sorted(nuclei(tmp_path / "large")) == sorted(one for one in every if one[1] >= 60)
    assert 0 < len(nuclei(tmp_path / "certain")) < len(every) > len(nuclei(tmp_path / "large")) > 0
    settled = read_config(tmp_path / "large")
    assert settled["inference"]["min_area_px"] == 60
    assert (settled["inference"]["tta"], settled["inference"]["score"]) == ("none", 0.7)
    wide = run_verb(
        "predict", images, "--out", "wide", "--tta", "none", "--set", "score=0.3", "--set", "mask_threshold=0.1"
    )
    assert wide.exit_code == 0, wide.output
    assert sum(area for _, area in nuclei(tmp_path / "wide")) > 1.05 * sum(area for _, area in every)


def test_nuclei_that_few_of_several_views_show_can_be_asked_for(run_verb, tmp_path):
    """Of one view the detector tells of nothing below 0.3, but what few views show has less on average."""
    with resources.as_file(resources.files("nucstyle.sample")) as sample:
        (image,) = (one.image for one in open_dataset(sample).records if one.id.startswith("6af82abb"))
        result = run_verb("predict", image, "--out", "run", "--tta", "fast", "--set", "score=0.1")
    assert result.exit_code == 0, result.output
    scores = [score for score, _ in nuclei(tmp_path / "run")]
    assert 0.1 <= min(scores) < 0.3
    assert max(scores) > 0.9


@pytest.mark.parametrize(
    ("setting", "named", "remedy"),
    [
        ("score=0.2", "score=0.2", "nothing below 0.3"),
        ("tta=fast", "tta=fast", "--tta"),  # what the weights say, but --tta says otherwise
        ("tile_px=256", "tile_px=256", "--tile"),
        ("inference.clahe=true", "inference.clahe=true", "shown with false"),
        ("score=2", "inference.score", "less than or equal to 1"),
        ("mask_treshold=0.4", "mask_treshold", "mask_threshold"),
        ("steps=3", "steps", "unknown key"),
        ("score", "score", "key=value"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(assert_refused, run_verb, write_pairs, setting, named, remedy):
    images = write_pairs("data", fluorescence=1, stained=0) / "images"
    assert_refused(run_verb("predict", images, "--out", "run", "--tta", "none", "--set", setting), named, remedy)
