import hashlib
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.waiting import wait_until
from twinforce_service.downloads import command
from twinforce_service.downloads.download import Download, DownloadError, fetch

CONTENT = bytes(range(256)) * 5000
PATIENCE = 60.0
TOKEN = "of-a-registry"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Shelf(ThreadingHTTPServer):
    """A server of one file, which may break connections or refuse a number of times."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Shelving)
        self.asked = []  # headers of the requests
        self.faults = []  # what to do instead, in order
        self.has_ranges = True
        self.begin = 0  # of what is sent where a range is asked for, beyond what was asked
        self.gate = threading.Event()  # lets the rest of a held reply go on

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pt"


class Shelving(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(dict(self.headers))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
        elif isinstance(fault, str) and fault not in ("break", "hold"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
        else:
            self.send_content(is_broken=fault == "break", is_held=fault == "hold")

    def send_content(self, *, is_broken, is_held):
        content = CONTENT
        asked = self.headers.get("Range")
        if asked and self.server.has_ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) + self.server.begin
            if begin >= len(CONTENT):
                self.send_error(416)
                return
            content = CONTENT[begin:]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if is_held:
            self.wfile.flush()
            self.server.gate.wait(PATIENCE)
        if not is_broken:
            self.wfile.write(content[half:])

    def log_message(self, *arguments):
        pass


@contextmanager
def shelf():
    with Shelf() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with shelf() as found:
        yield found


def download(server, sha256=SHA256):
    return Download("weights.pt", server.url, sha256)


def fetched(server, folder, **options):
    delays = []
    is_new = fetch(download(server), folder, wait=delays.append, **options)
    assert (folder / "weights.pt").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["weights.pt"]
    assert (folder / "weights.pt").stat().st_mode & 0o777 == 0o644
    return is_new, delays


def test_a_file_is_downloaded_once(server, tmp_path):
    assert fetched(server, tmp_path) == (True, [])
    assert fetched(server, tmp_path) == (False, [])
    assert len(server.asked) == 1


def test_another_file_of_the_name_is_replaced(server, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"older")
    assert fetched(server, tmp_path) == (True, [])


def test_a_download_continues_where_the_connection_broke(server, tmp_path):
    server.faults = ["break", 503, "break"]
    assert fetched(server, tmp_path) == (True, [1.0, 2.0, 4.0])
    half = len(CONTENT) // 2
    assert [asked.get("Range") for asked in server.asked] == [
        None,
        f"bytes={half}-",
        f"bytes={half}-",
        f"bytes={half + half // 2}-",
    ]


def test_a_server_without_ranges_sends_the_file_again(server, tmp_path):
    server.faults, server.has_ranges = ["break"], False
    assert fetched(server, tmp_path) == (True, [1.0])


def test_a_file_with_another_hash_is_not_kept(server, tmp_path):
    with pytest.raises(DownloadError, match=f"expected content with sha256 {'0' * 64}, got"):
        fetch(download(server, "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


PART = f".weights.pt.{SHA256[:16]}.part"
HALF = len(CONTENT) // 2


def test_a_download_that_was_ended_is_continued_by_the_next_one(server, tmp_path):
    server.faults = ["hold"]
    command = [sys.executable, "-m", "twinforce_service.main", "download"]
    arguments = [f"weights.pt={server.url}#sha256={SHA256}", "--into", str(tmp_path)]
    process = subprocess.Popen([*command, *arguments])
    part = tmp_path / PART
    wait_until(lambda: part.exists() and part.stat().st_size > 0)
    process.terminate()
    assert process.wait(PATIENCE) == -signal.SIGTERM
    server.gate.set()
    assert [path.name for path in tmp_path.iterdir()] == [PART]
    begin = part.stat().st_size
    assert fetched(server, tmp_path) == (True, [])
    assert server.asked[1]["Range"] == f"bytes={begin}-"


@pytest.mark.parametrize(
    ("there", "n_asked", "n_delays"),
    [(CONTENT[:HALF], 1, 0), (CONTENT, 0, 0), (b"x" * HALF, 2, 0), (CONTENT + b"x", 2, 1)],
    ids=["a part", "all", "something else", "too much"],
)
def test_what_is_there_is_used_if_it_is_right(server, tmp_path, there, n_asked, n_delays):
    (tmp_path / PART).write_bytes(there)
    is_new, delays = fetched(server, tmp_path)
    assert (is_new, len(delays), len(server.asked)) == (True, n_delays, n_asked)


def test_a_server_that_sends_another_range_is_not_believed(server, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT[:HALF])
    server.begin = 10
    with pytest.raises(DownloadError, match=f"for bytes from {HALF} on"):
        fetch(download(server), tmp_path, wait=lambda _: None)
    assert (tmp_path / PART).read_bytes() == CONTENT[:HALF]


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path):
    server.faults = ["hold"]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, download(server), tmp_path)
        wait_until(lambda: len(server.asked) == 1)
        second = pool.submit(fetch, download(server), tmp_path)
        time.sleep(0.1)
        server.gate.set()
        assert [first.result(PATIENCE), second.result(PATIENCE)] == [True, False]
    assert len(server.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize("is_another_file", [True, False])
def test_a_download_begins_again_if_another_process_has_taken_the_file_away(
    server, tmp_path, monkeypatch, is_another_file
):
    part, stat, looks = tmp_path / PART, Path.stat, []

    def stat_meanwhile(path, **options):
        """Stand for a process that ends its download while this one waited for the file."""
        if path != part:
            return stat(path, **options)
        looks.append(path)
        if len(looks) > 1:
            return stat(path, **options)
        part.rename(tmp_path / "before")
        if is_another_file:
            part.touch()
        try:
            return stat(path, **options)
        finally:
            part.unlink(missing_ok=True)

    monkeypatch.setattr(Path, "stat", stat_meanwhile)
    assert fetch(download(server), tmp_path)
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT
    assert looks


@pytest.fixture
def small_files():
    """Let no file of this process get larger than half of the content."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_be_written_is_an_error_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match=rf"{PART}: cannot be written: File too large"):
        fetch(download(server), tmp_path, wait=pytest.fail)
    assert len(server.asked) == 1
    assert (tmp_path / PART).read_bytes() == CONTENT[:HALF]  # goes on from here once there is room


def test_a_refusal_is_final_and_a_failure_is_tried_again(server, tmp_path):
    server.faults = [404]
    with pytest.raises(DownloadError, match="404"):
        fetch(download(server), tmp_path, wait=pytest.fail)
    server.faults = [502] * 9
    delays = []
    with pytest.raises(DownloadError, match="502"):
        fetch(download(server), tmp_path, wait=delays.append)
    assert len(delays) == 5
    assert list(tmp_path.iterdir()) == []


def test_a_token_stays_with_the_server_that_it_is_for(server, tmp_path):
    with shelf() as other:
        server.faults = [other.url]
        fetched(server, tmp_path, token=TOKEN)
        assert server.asked[0]["Authorization"] == f"Bearer {TOKEN}"
        assert "Authorization" not in other.asked[0]


def test_a_token_is_not_sent_in_the_clear(tmp_path):
    plain = Download("weights.pt", "http://example.com/weights.pt", SHA256)
    with pytest.raises(DownloadError, match="expected https for a URL with a token"):
        fetch(plain, tmp_path, token=TOKEN)


def test_the_command_downloads_into_a_new_folder(server, tmp_path, capsys):
    arguments = [f"weights.pt={server.url}#sha256={SHA256}", "--into", str(tmp_path / "new")]
    assert command.run(arguments) == 0
    assert "downloaded" in capsys.readouterr().out
    assert command.run(arguments) == 0
    assert "is there" in capsys.readouterr().out
    server.faults = [403]
    assert command.run([f"b.pt={server.url}#sha256={SHA256}", "--into", str(tmp_path)]) == 1
    assert "403" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weights.pt", "with an https or http URL"),
        ("../up=https://host/a#sha256=" + SHA256, "with the name of a file"),
        ("a.pt=file:///etc/passwd#sha256=" + SHA256, "with an https or http URL"),
        ("a.pt=https://host/a", "with an https or http URL"),
        ("a.pt=https://host/a#sha256=abc", "with 64 hexadecimal digits"),
    ],
)
def test_a_download_names_a_file_an_address_and_a_hash(text, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.run([text, "--into", str(tmp_path)])
    assert message in capsys.readouterr().err
