"""Downloads from a server that cuts off, lies, changes its mind and is slow: whole and right, or a refusal."""

from __future__ import annotations

import json
import ssl
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nucstyle.core.errors import DatasetError
from nucstyle.core.protocols import Silent
from nucstyle.data import fetch
from nucstyle.data.fetch import FileRecord, Patience, check_same, download, read_records, record_of, write_records

CONTENT = np.random.default_rng(0).bytes(300_000)
HASTY = Patience(timeout_s=5, attempts=3, wait_s=0)


@pytest.fixture
def get(site, tmp_path):
    """`get()` downloads `file` from the site and returns its content."""
    site.files["file"] = CONTENT

    def run(*, check=lambda _: None, patience=HASTY, **options):
        path = tmp_path / "file"
        download(site.address + "file", path, check=check, patience=patience, **options)
        assert entries(tmp_path) == ["file"]
        return path.read_bytes()

    return run


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def cut_off(after, **options):
    """An answer that ends early."""
    return lambda page, content: page.give(content, only=after, **options)


def ranges_of(site):
    return [asked for _, asked in site.asked]


class Told(Silent):
    def __init__(self):
        self.lines, self.stages, self.done = [], [], []

    def start(self, stage, total, unit):
        self.stages.append((stage, total, unit))

    def advance(self, done, values=None):
        self.done.append(done)

    def say(self, line):
        self.lines.append(line)


# As it should be


def test_a_file_comes_whole_and_is_checked_before_it_gets_its_name(get, site, tmp_path):
    seen = []

    def check(path):
        seen.append((path.name, path.read_bytes() == CONTENT, (tmp_path / "file").exists()))

    assert get(check=check) == CONTENT
    assert seen == [("file.part", True, False)]
    assert ranges_of(site) == [None]


def test_an_empty_file_comes_whole(get, site):
    site.files["file"] = b""
    assert get() == b""


def test_a_file_in_chunks_comes_whole(get, site):
    def chunked(page, content):
        page.protocol_version = "HTTP/1.1"
        page.send_response(200)
        page.send_header("Transfer-Encoding", "chunked")
        page.send_header("Connection", "close")
        page.end_headers()
        for start in range(0, len(content), 70_000):
            block = content[start : start + 70_000]
            page.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        page.wfile.write(b"0\r\n\r\n")

    site.answers = [chunked]
    assert get() == CONTENT


def test_progress_is_told_in_megabytes(get, site):
    site.files["file"] = bytes(2_500_000)
    told = Told()
    get(progress=told)
    assert told.stages == [("download file", 3, "megabyte")]
    assert told.done == sorted(told.done)
    assert (told.done[0], told.done[-1]) == (0, 3)


def test_a_download_follows_where_it_is_led(get, site):
    def lead(page, _):
        page.send_response(302)
        page.send_header("Location", page.server.address + "elsewhere/file")
        page.end_headers()

    site.answers = [lead]
    assert get() == CONTENT


# Breaking off


@pytest.mark.parametrize("after", [0, 1, 100_000, len(CONTENT) - 1])
def test_what_was_cut_off_is_gone_on_with(get, site, after):
    site.answers = [cut_off(after)]
    told = Told()
    assert get(progress=told) == CONTENT
    assert ranges_of(site) == [None, f"bytes={after}-" if after else None]
    assert told.lines == [f"file: the connection ended after {after:,} of 300,000 bytes; trying again in 0 s"]


def test_a_server_may_cut_off_as_often_as_it_likes_if_something_comes_each_time(get, site):
    site.answers = [cut_off(20_000) for _ in range(10)]
    assert get() == CONTENT
    assert len(site.asked) == 11


def test_a_later_call_goes_on_where_the_first_gave_up(get, site, tmp_path, refusal):
    site.answers = [cut_off(100_000), *[cut_off(0)] * 3]
    message = refusal(DatasetError, get)
    assert message.startswith(
        f"{site.address}file: the connection ended after 100,000 of 300,000 bytes, 3 times in a row; "
    )
    assert "--resume" in message
    assert "--from-dir" in message
    assert entries(tmp_path) == ["file.part", "file.part.json"]  # nothing that could be taken for the file
    site.asked.clear()
    assert get() == CONTENT
    assert ranges_of(site) == ["bytes=100000-"]


def test_a_call_that_was_killed_between_the_last_byte_and_the_name_asks_for_nothing(get, site, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.json").write_text(json.dumps({"validator": '"x"', "total": len(CONTENT)}))
    assert get() == CONTENT
    assert site.asked == []


def test_chunks_that_break_off_are_noticed(get, site):
    def chunked(page, content):
        page.protocol_version = "HTTP/1.1"
        page.send_response(200)
        page.send_header("Transfer-Encoding", "chunked")
        page.end_headers()
        page.wfile.write(b"%x\r\n%b" % (200_000, content[:100_000]))
        page.close_connection = True

    site.answers = [chunked]
    assert get() == CONTENT
    assert len(site.asked) == 2


def test_the_wait_doubles_and_is_told(get, site, monkeypatch, refusal):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    site.answers = [cut_off(0)] * 8
    assert "8 times" in refusal(DatasetError, get, patience=Patience(attempts=8, wait_s=1.5))
    assert waits == [1.5, 3, 6, 12, 24, 48, 60]


def test_a_server_that_falls_silent_is_given_up_and_asked_again(get, site):
    silent = threading.Event()

    def fall_silent(page, content):
        page.give(content, only=50_000)
        silent.wait(30)

    site.answers = [fall_silent]
    try:
        assert get(patience=Patience(timeout_s=0.3, wait_s=0)) == CONTENT
    finally:
        silent.set()
    assert ranges_of(site) == [None, "bytes=50000-"]


def test_a_slow_server_is_waited_for(get, site):
    def slow(page, content):
        page.give(content, only=0)
        for start in range(0, len(content), 100_000):
            time.sleep(0.2)
            page.wfile.write(content[start : start + 100_000])

    site.answers = [slow]
    assert get(patience=Patience(timeout_s=30, attempts=1)) == CONTENT


def test_nobody_at_home_is_told_after_all_attempts(tmp_path, refusal, no_network):
    no_network.add(("127.0.0.1", 1))
    message = refusal(
        DatasetError, download, "http://127.0.0.1:1/file", tmp_path / "file", check=lambda _: None, patience=HASTY
    )
    assert message.startswith("http://127.0.0.1:1/file: the server cannot be reached (")
    assert "refused" in message
    assert "3 times" in message


def test_a_full_disk_is_no_reason_to_ask_again(get, site, monkeypatch):
    def fill(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "_blocks", fill)
    with pytest.raises(OSError, match="No space left"):
        get()
    assert len(site.asked) == 1


# Lies and changes


def test_a_server_that_ignores_ranges_begins_again(get, site):
    site.answers = [cut_off(100_000), lambda page, content: page.give(content, ranges=False)]
    assert get() == CONTENT
    assert ranges_of(site) == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_and_always_cuts_off_is_given_up(get, site, refusal):
    site.answers = [cut_off(100_000, ranges=False)] * 9
    assert "3 times in a row" in refusal(DatasetError, get)
    assert len(site.asked) == 4  # the first brought something new


def test_a_part_of_a_file_without_a_name_is_not_gone_on_with(get, site):
    site.answers = [cut_off(100_000, etag=False)]
    assert get() == CONTENT
    assert ranges_of(site) == [None, None]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Last-Modified", "Mon, 01 Jan 2018 00:00:00 GMT")], "Mon, 01 Jan 2018 00:00:00 GMT"),
        ([("ETag", 'W/"1"'), ("Last-Modified", "Mon, 01 Jan 2018 00:00:00 GMT")], "Mon, 01 Jan 2018 00:00:00 GMT"),
        ([("ETag", 'W/"1"')], None),
    ],
)
def test_a_file_is_named_by_a_strong_etag_or_its_time(get, site, headers, expected):
    seen = []

    def look(page, content):
        seen.append(page.headers["If-Range"])
        page.give(content, ranges=False)

    site.answers = [cut_off(100_000, etag=False, headers=headers), look]
    assert get() == CONTENT
    assert seen == [expected]


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("size", [len(CONTENT), 200_000, 50_000])
def test_a_file_that_changes_between_two_requests_is_begun_again(get, site, obeys, size):
    new = np.random.default_rng(1).bytes(size)

    def change(page, content):
        page.server.files["file"] = new
        page.give(content, only=100_000)

    def ignore_the_condition(page, content):
        del page.headers["If-Range"]
        page.give(content)

    site.answers = [change, *([] if obeys else [ignore_the_condition])]
    assert get() == new


def test_another_piece_than_was_asked_for_is_not_taken(get, site):
    def give_another(page, content):
        page.send_response(206)
        page.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
        page.send_header("Content-Length", str(len(content)))
        page.end_headers()
        page.wfile.write(content)

    site.answers = [cut_off(100_000), give_another]
    told = Told()
    assert get(progress=told) == CONTENT
    assert "another piece of the file" in told.lines[-1]


def test_a_piece_of_a_file_of_another_size_is_not_taken(get, site):
    def give_of_another(page, content):
        page.send_response(206)
        page.send_header("Content-Range", "bytes 100000-399999/400000")
        page.send_header("Content-Length", "300000")
        page.end_headers()
        page.wfile.write(bytes(300_000))

    site.answers = [cut_off(100_000), give_of_another]
    assert get() == CONTENT


def test_a_smaller_piece_than_the_rest_is_not_taken_for_the_rest(get, site):
    def give_less(page, content):
        page.send_response(206)
        page.send_header("Content-Range", f"bytes 100000-199999/{len(content)}")
        page.send_header("Content-Length", "100000")
        page.end_headers()
        page.wfile.write(content[100_000:200_000])

    site.answers = [cut_off(100_000), give_less]
    assert get() == CONTENT
    assert ranges_of(site) == [None, "bytes=100000-", "bytes=200000-"]


def test_a_length_that_is_too_great_looks_like_a_cut_off_and_is_given_up(get, site, refusal, tmp_path):
    site.answers = [lambda page, content: page.give(content, length=len(content) + 5)] * 9
    assert "3 times in a row" in refusal(DatasetError, get)
    assert "file" not in entries(tmp_path)


def test_bytes_beyond_the_length_are_not_taken(get, site):
    site.answers = [lambda page, content: page.give(content, length=100_000)]
    assert get() == CONTENT[:100_000]  # what it is to be is for `check` to say


def test_a_file_of_unknown_length_is_refused(get, site, refusal):
    site.answers = [lambda page, content: page.give(content, length="")]
    message = refusal(DatasetError, get)
    assert "does not say how long the file is" in message
    assert "--from-dir" in message


@pytest.mark.parametrize("said", [True, False])
def test_a_file_that_would_fill_the_disk_is_refused(get, site, refusal, monkeypatch, said):
    monkeypatch.setattr(fetch, "_MOST_BYTES", 1000)

    def endless(page, content):
        page.protocol_version = "HTTP/1.1"
        page.send_response(200)
        page.send_header("Transfer-Encoding", "chunked")
        page.end_headers()
        for _ in range(1000):
            page.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    site.answers = [] if said else [endless]
    assert "the server gives more than 1,000 bytes" in refusal(DatasetError, get)


@pytest.mark.parametrize("code", [403, 404, 410, 501])
def test_an_answer_that_will_stay_is_not_asked_for_again(get, site, refusal, tmp_path, code):
    site.answers = [lambda page, _: page.send_error(code)]
    message = refusal(DatasetError, get)
    assert message.startswith(f"{site.address}file: HTTP {code} ")
    assert len(site.asked) == 1
    assert entries(tmp_path) == []


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_an_answer_that_may_pass_is_asked_for_again(get, site, code):
    site.answers = [lambda page, _: page.send_error(code)]
    told = Told()
    assert get(progress=told) == CONTENT
    assert told.lines[0].startswith(f"file: HTTP {code} ")


@pytest.mark.parametrize("note", ["", "{", "[]", '{"validator": 3, "total": "many"}', None])
def test_a_damaged_note_of_a_part_begins_again(get, site, tmp_path, note):
    (tmp_path / "file.part").write_bytes(b"of something else")
    if note is not None:
        (tmp_path / "file.part.json").write_text(note)
    assert get() == CONTENT
    assert ranges_of(site) == [None]


def test_what_is_refused_is_not_kept(get, tmp_path, refusal):
    def check(_):
        message = "no"
        raise DatasetError(message)

    assert refusal(DatasetError, get, check=check) == "no"
    assert entries(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/file", "/etc/passwd", ""])
def test_only_web_addresses_are_downloaded(tmp_path, refusal, url):
    message = refusal(DatasetError, download, url, tmp_path / "file", check=lambda _: None)
    assert message.startswith(f"{url}: only http and https")
    assert entries(tmp_path) == []


# Certificates


def test_certificates_are_verified_as_before(get):
    before = ssl._create_default_https_context
    get()
    assert ssl._create_default_https_context is before is ssl.create_default_context
    context = ssl.create_default_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.fixture
def secured(site):
    """The site speaks TLS, with a certificate that nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("self-signed.pem"))
    site.socket = context.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)
    site.handle_error = lambda *_: None  # the visitor leaves in the handshake
    return f"https://127.0.0.1:{site.server_port}/file"


def test_a_certificate_that_nobody_signed_is_refused_at_once(secured, site, tmp_path, refusal):
    site.files["file"] = CONTENT
    message = refusal(DatasetError, download, secured, tmp_path / "file", check=lambda _: None, patience=HASTY)
    assert message.startswith(f"{secured}: the certificate of the server cannot be verified (")
    assert site.asked == []
    assert entries(tmp_path) == []


def test_a_secured_address_leads_to_no_other_kind(site, tmp_path, refusal, monkeypatch):
    url = site.address.replace("http:", "https:") + "file"
    site.files["file"] = CONTENT
    opened = fetch.urlopen
    # As if the secured address had answered with a redirection.
    monkeypatch.setattr(fetch, "urlopen", lambda _, timeout: opened(site.address + "file", timeout=timeout))
    message = refusal(DatasetError, download, url, tmp_path / "file", check=lambda _: None, patience=HASTY)
    assert f"leads to {site.address}file, which is not encrypted" in message


# Records


def test_a_file_is_compared_with_what_came_first(tmp_path, refusal):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    known = record_of(path)
    check_same(path, None, where=tmp_path / "fetch.json")
    check_same(path, known, where=tmp_path / "fetch.json")
    changed = bytearray(CONTENT)
    changed[1234] ^= 1
    path.write_bytes(changed)
    message = refusal(DatasetError, check_same, path, known, where=tmp_path / "fetch.json")
    for part in (str(path), record_of(path).sha256, known.sha256, "300,000 bytes", str(tmp_path / "fetch.json")):
        assert part in message


def test_records_come_back_and_there_may_be_none(tmp_path):
    records = {"a.zip": FileRecord(3, "abc"), "b.csv": FileRecord(0, "def")}
    write_records(tmp_path / "fetch.json", records)
    assert read_records(tmp_path / "fetch.json") == records
    assert read_records(tmp_path / "nothing.json") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}', '{"files": {"a": {}}}', '{"files": {"a": 3}}'])
def test_damaged_records_are_refused_with_the_remedy(tmp_path, refusal, text):
    (tmp_path / "fetch.json").write_text(text)
    message = refusal(DatasetError, read_records, tmp_path / "fetch.json")
    assert message.startswith(f"{tmp_path / 'fetch.json'}: damaged; delete it")
