import pytest

from nucstyle.data.cache import Cache, cache_folder, content_key, open_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the cache lies."""
    monkeypatch.setenv("NUCSTYLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_put_is_there_the_next_time(folder):
    with open_cache("numbers-1") as cache:
        assert cache.get("a") is None
        cache.put("a", {"x": [0.1, 2]})
    with open_cache("numbers-1") as cache:
        assert cache.get("a") == {"x": [0.1, 2]}
    with open_cache("numbers-2") as cache:
        assert cache.get("a") is None


def test_a_cache_that_is_not_wanted_keeps_nothing_and_makes_no_file(folder):
    with open_cache("numbers-1", use=False) as cache:
        assert not cache.is_open
        cache.put("a", 1)
        assert cache.get("a") is None
    assert not folder.exists()


def test_a_damaged_cache_is_no_cache(folder):
    folder.mkdir()
    (folder / "numbers-1.sqlite").write_bytes(b"not a database" * 100)
    with open_cache("numbers-1") as cache:
        cache.put("a", 1)
        assert cache.get("a") is None


def test_a_folder_that_cannot_be_made_is_no_cache(folder):
    folder.write_text("a file stands where the folder should be")
    with open_cache("numbers-1") as cache:
        assert not cache.is_open
        cache.put("a", 1)


def test_a_connection_that_fails_later_is_no_cache(folder):
    with open_cache("numbers-1") as cache:
        cache.put("a", 1)
        cache._connection.close()
        cache.put("b", 1)
        assert not cache.is_open
    assert Cache(None).get("a") is None


def test_a_damaged_value_is_no_value(folder):
    with open_cache("numbers-1") as cache:
        cache._ask("INSERT INTO entries VALUES (?, ?)", "a", "{")
        assert cache.get("a") is None
        assert cache.is_open


def test_a_file_that_cannot_be_read_has_no_key(tmp_path):
    assert content_key(tmp_path / "missing") is None
    assert content_key(tmp_path) is None


def test_the_key_follows_the_bytes_and_the_settings(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"2")
    assert content_key(tmp_path / "a", 1) == content_key(tmp_path / "b", 1)
    assert content_key(tmp_path / "a", 1) != content_key(tmp_path / "c", 1)
    assert content_key(tmp_path / "a", 1) != content_key(tmp_path / "a", "1")


def test_the_place_is_that_of_the_user_unless_another_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("NUCSTYLE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nucstyle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "nucstyle")
