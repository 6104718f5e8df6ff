import numpy as np
import pytest

from nucstyle.modality import clustering
from nucstyle.modality.clustering import centres_of, choose_k, kmeans, kmeans_around, nearest_group, without_tiny


@pytest.fixture
def blobs():
    """One large and three small groups of points, far from each other, (82, 4), and the group of each."""
    rng = np.random.default_rng(0)
    middles, sizes = np.array([[0, 0, 0, 0], [1, 0, 0, 1], [0, 1.5, 0, 1], [-1, 0, 0.5, 1]]), (50, 14, 12, 6)
    groups = np.repeat(np.arange(4), sizes)
    return middles[groups] + rng.normal(0, 0.04, (len(groups), 4)), groups


def same(one, other):
    """Whether two divisions are the same but for the numbers."""
    return (
        len(set(zip(one.tolist(), other.tolist(), strict=True))) == len(set(one.tolist())) == len(set(other.tolist()))
    )


def test_the_number_of_groups_is_found_and_the_reason_is_given(blobs):
    points, groups = blobs
    k, candidates = choose_k(points, seed=0)
    assert k == 4
    assert [one.k for one in candidates] == list(range(2, clustering.MOST_MODALITIES + 1))
    four = candidates[2]
    assert four.stability == 1
    assert four.modalities == 4
    assert four.silhouette == max(one.silhouette for one in candidates)
    assert same(kmeans(points, k, seed=0).labels_, groups)


def test_the_same_seed_gives_the_same_choice(blobs):
    assert choose_k(blobs[0], seed=3) == choose_k(blobs[0], seed=3)


def test_points_without_structure_are_one_group():
    points = np.random.default_rng(0).uniform(size=(120, 4))
    assert choose_k(points, seed=0)[0] == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_handful_of_points_is_one_group(count):
    assert choose_k(np.random.default_rng(0).uniform(size=(count, 4)), seed=0)[0] == 1


def test_identical_points_are_one_group():
    assert choose_k(np.ones((30, 4)), seed=0) == (1, ())
    assert kmeans(np.ones((30, 4)), 6, seed=0).n_clusters == 1


def test_of_many_points_a_sample_decides(blobs, monkeypatch):
    monkeypatch.setattr(clustering, "_MOST_IMAGES", 60)
    k, candidates = choose_k(np.concatenate([blobs[0]] * 3), seed=0)
    assert k == 4
    assert len(candidates) == clustering.MOST_MODALITIES - 1


def test_one_or_two_odd_points_do_not_hide_the_groups_and_join_the_nearest(blobs):
    points, groups = blobs
    odd = np.concatenate([points, [[0, 3.0, 0, 1.2]]])
    k, candidates = choose_k(odd, seed=0)
    assert k == 5
    assert candidates[3].modalities == 4
    found = without_tiny(odd, kmeans(odd, k, seed=0).labels_)
    assert same(found, np.append(groups, 2))


def test_a_number_that_leaves_many_points_over_is_not_taken(blobs):
    points, _ = blobs
    odd = np.concatenate([points, 5 * np.eye(4), -5 * np.eye(4)])
    k, candidates = choose_k(odd, seed=0)
    assert all(one.strays <= 4 for one in candidates if one.k == k)


def test_points_that_are_all_odd_are_one_group():
    assert without_tiny(np.eye(4), np.arange(4)).tolist() == [0] * 4


def test_a_group_found_by_kmeans_has_its_mean_for_a_centre(blobs):
    points, groups = blobs
    centres = centres_of(points, groups)
    assert [own.shape for own in centres] == [(1, 4)] * 4
    np.testing.assert_allclose(centres[2][0], points[groups == 2].mean(axis=0))


def test_every_point_of_a_merged_group_is_nearest_to_one_of_its_centres():
    points = np.concatenate([np.random.default_rng(0).normal(x, 0.05, (20, 2)) for x in (0, 1, 2, 3)])
    merged = np.repeat([0, 1, 0, 1], 20)
    centres = centres_of(points, merged)
    assert [len(own) for own in centres] == [2, 2]
    assert np.array_equal(nearest_group(points, centres), merged)


def test_a_single_moved_point_does_not_draw_its_neighbours_along(blobs):
    points, groups = blobs
    moved = groups.copy()
    moved[0] = 2
    centres = centres_of(points, moved)
    assert [len(own) for own in centres] == [1] * 4
    assert np.array_equal(nearest_group(points, centres), groups)


def test_more_centres_than_the_limit_are_not_made():
    points = np.arange(60.0)[:, None]
    centres = centres_of(points, np.arange(60) % 2)
    assert max(len(own) for own in centres) == clustering.MOST_CENTRES


def test_groups_named_by_a_person_hold_and_the_others_form_around_them(blobs):
    points, groups = blobs
    named = [None] * len(points)
    named[0], named[1], named[50] = 0, 0, 1
    found = kmeans_around(points, named, 4, seed=0)
    assert same(found, groups)
    assert (found[0], found[50]) == (0, 1)


def test_a_point_that_a_person_moved_stays_where_it_was_put(blobs):
    points, groups = blobs
    named = groups.tolist()
    named[3] = 2
    named[4:10] = [None] * 6
    found = kmeans_around(points, named, 4, seed=0)
    assert found[3] == 2
    assert np.array_equal(np.delete(found, 3), np.delete(groups, 3))


def test_without_names_it_is_kmeans(blobs):
    points, _ = blobs
    assert np.array_equal(kmeans_around(points, [None] * len(points), 3, seed=5), kmeans(points, 3, seed=5).labels_)


def test_no_more_groups_form_than_there_are_other_points():
    points = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert set(kmeans_around(points, [0, None, None, None], 6, seed=0).tolist()) == {0, 1}
