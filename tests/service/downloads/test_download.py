import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from twinforce_service.downloads import command
from twinforce_service.downloads.download import Download, DownloadError, fetch

CONTENT = bytes(range(256)) * 5000
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

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pt"


class Shelving(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(dict(self.headers))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
        elif isinstance(fault, str) and fault != "break":
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
        else:
            self.send_content(is_broken=fault == "break")

    def send_content(self, *, is_broken):
        content = CONTENT
        asked = self.headers.get("Range")
        if asked and self.server.has_ranges:
            content = CONTENT[int(asked.removeprefix("bytes=").removesuffix("-")) :]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if is_broken else content)

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
