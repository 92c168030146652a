"""The page without a browser: its files and headers, and the events that it follows."""

import asyncio
import hashlib
import json
import re
import threading
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from tests.clients.serving import serve
from tests.service.callers.making import add_key, run_keys
from tests.service.transports.rest_bodies import json_body
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce_service.transports.rest.page import assets, live
from twinforce_service.transports.rest.page.router import _EventsResponse

FOLDER = Path(assets.__file__).with_name("assets")
OURS = sorted(path for path in FOLDER.iterdir() if path.is_file())
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def rest():
    with serve() as server, httpx2.Client(base_url=server.rest_url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service with keys: its URL, and the texts of the keys by name."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {
        "viewer": add_key(path, "viewer", "--scope", "metrics"),
        "caller": add_key(path, "caller"),
        "leaver": add_key(path, "leaver", "--scope", "metrics"),
    }
    with serve(keys=str(path)) as server:
        yield server.rest_url, keys, path


def test_a_browser_sees_the_page_and_others_what_they_got_before(rest):
    page = rest.get("/", headers=BROWSER)
    assert (page.status_code, page.headers["vary"]) == (200, "Accept")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>TwinForce</title>" in page.text
    for accept in ("application/json", "*/*", "application/x-protobuf"):
        other = rest.get("/", headers={"accept": accept})
        assert other.status_code == 404
        assert other.headers["content-type"] == "application/problem+json"


def test_the_page_can_neither_load_nor_send_anything_elsewhere(rest):
    for path in ("/", "/docs", "/page/main.js", "/page/icon.svg"):
        headers = rest.get(path, headers=BROWSER).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


class Document(HTMLParser):
    """The names in an HTML document: files that it loads, ids, and inline code."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.ids, self.inline, self.named, self.labeled = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []
        if "id" in given:
            self.ids.append(given["id"])
        if tag in ("script", "link"):
            self.loaded.append(given.get("src") or given["href"])
        if tag == "label" and "for" in given:
            self.labeled.append(given["for"])
        if tag in ("select", "input") and given.get("type") != "checkbox":
            self.named.append(given["id"])


def scripts_of(document):
    """Return the texts of our scripts that a document loads, and of those that they import."""
    names = [path.removeprefix("page/") for path in document.loaded if path.startswith("page/")]
    texts = {}
    while names:
        name = names.pop()
        if name.endswith(".js") and name not in texts and (FOLDER / name) in OURS:
            texts[name] = (FOLDER / name).read_text()
            names += re.findall(r'from "\./([\w.]+)"', texts[name])
    return texts


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_document_holds_no_code_and_all_that_it_names_is_there(rest, path):
    document = Document(rest.get(path, headers=BROWSER).text)
    assert not document.inline
    assert len(document.ids) == len(set(document.ids))
    assert set(document.named) <= set(document.labeled)
    scripts = "".join(scripts_of(document).values())
    assert 'from "./api.js"' in scripts
    imported = re.findall(r'from "\./([\w.]+)"', scripts)
    fetched = re.findall(r'fetch\("([\w./]+)"\)', scripts)
    for each in {*document.loaded, *(f"page/{name}" for name in imported), *fetched}:
        assert rest.get(f"/{each}").status_code == 200, each
    assert set(re.findall(r'find\("([\w-]+)"\)', scripts)) <= set(document.ids)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_files_name_no_other_place(path):
    named = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", path.read_text()))
    assert named <= {"http://www.w3.org"}  # the namespace of SVG


def test_files_are_sent_again_only_if_they_have_changed(rest):
    for name, media_type in (("main.js", "text/javascript"), ("style.css", "text/css")):
        first = rest.get(f"/page/{name}")
        assert first.headers["content-type"].startswith(media_type)
        tag = {"if-none-match": first.headers["etag"]}
        again = rest.get(f"/page/{name}", headers=tag)
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/../router.py", "/page/%2e%2e/router.py"]
)
def test_no_other_file_is_shown(rest, path):
    assert rest.get(path).status_code == 404


def test_the_library_of_others_is_what_its_page_says():
    told = (FOLDER / "vendor" / "README.md").read_text()
    found = hashlib.sha256((FOLDER / "vendor" / "3Dmol-min.js").read_bytes()).hexdigest()
    assert found in told
    assert "Redistribution and use" in (FOLDER / "vendor" / "3Dmol-LICENSE.txt").read_text()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 700_000


def test_the_page_can_be_turned_off():
    with serve(page=False) as server:
        for path in ("/", "/page/main.js", "/page/reference.js", "/v1/events"):
            reply = httpx2.get(server.rest_url + path, headers=BROWSER)
            assert reply.status_code == 404, path


def test_everyone_sees_the_page_of_a_service_with_keys_and_nothing_else(guarded):
    url, _, _ = guarded
    shown = (
        "/",
        "/page/main.js",
        "/page/vendor/3Dmol-min.js",
        "/docs",
        "/docs/assets/swagger-ui.css",
    )
    for path in shown:
        assert httpx2.get(url + path, headers=BROWSER).status_code == 200, path
    for path in ("/", "/docs"):
        assert httpx2.post(url + path, headers=BROWSER).status_code == 401
        assert httpx2.get(url + path, headers={"accept": "application/json"}).status_code == 401
    closed = (
        "/v1/models",
        "/v1/events",
        "/metrics",
        "/openapi.json",
        "/pagelike",
        "/docs/",
        "/docsx",
    )
    for path in closed:
        assert httpx2.get(url + path, headers=BROWSER).status_code == 401, path


@pytest.mark.parametrize("path", ["/v1/models", "/v1/events", "/metrics", "/openapi.json"])
@pytest.mark.parametrize(
    "host", ["{}/page/?", "{}/docs?", "{}/page/#", "{}/page/", "/page/?", "x@{}/page/?"]
)
def test_no_header_makes_another_path_a_part_of_the_page(guarded, path, host):
    url, _, _ = guarded
    given = BROWSER | {"host": host.format(url.partition("//")[2])}
    with httpx2.stream("GET", url + path, headers=given) as reply:
        assert reply.status_code in (400, 401, 421)


def test_pages_of_other_names_are_refused(rest):
    assert rest.get("/", headers=BROWSER | {"host": "evil.example"}).status_code == 421


class Following:
    """The events of a service, read one by one."""

    def __init__(self, url, key=None):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._stack = ExitStack()
        self.reply = self._stack.enter_context(
            httpx2.stream("GET", f"{url}/v1/events", headers=headers, timeout=60)
        )
        self._parts = self.reply.iter_text()
        self._rest = ""

    def raw(self):
        """Return the next event as it was sent, or None at the end."""
        while "\n\n" not in self._rest:
            part = next(self._parts, None)
            if part is None:
                return None
            self._rest += part
        event, _, self._rest = self._rest.partition("\n\n")
        return event

    def state(self):
        event = self.raw()
        assert event.startswith("data: "), event
        return json.loads(event.removeprefix("data: "))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


def test_events_tell_what_the_service_does(rest):
    url = str(rest.base_url).rstrip("/")
    with Following(url) as events:
        assert events.reply.headers["content-type"].startswith("text/event-stream")
        assert events.reply.headers["cache-control"] == "no-store"
        before = events.state()
        body = json_body(*[molecule(seed=seed) for seed in range(3)]) | {"outputs": ["hybrid"]}
        assert rest.post("/v1/models/lj/predict", json=body).status_code == 200
        wait_until(lambda: (after := events.state())["models"]["lj"]["n_evaluations"] and after)
        after = events.state()
    assert before["is_ready"] is after["is_ready"] is True
    assert {"n_waiting", "n_waiting_atoms", "n_runs", "n_restarts"} <= after.keys()
    assert after["time_s"] > before["time_s"]
    model = after["models"]["lj"]
    grown = model["n_evaluations"] - before["models"]["lj"]["n_evaluations"]
    assert grown == 3
    assert model["n_atoms"] >= 3 * len(molecule().atomic_numbers)
    assert model["is_available"] is True
    assert 0 < model["n_batches"] <= model["n_evaluations"]
    assert model["disagreement"][-1] == ["+Inf", 3.0]
    (caller,) = after["callers"]
    assert caller == "127.0.0.1"
    assert after["callers"][caller]["n_evaluations"] == model["n_evaluations"]


def test_events_name_no_callers_if_metrics_have_a_port_of_their_own():
    with serve(metrics_port=0) as server, Following(server.rest_url) as events:
        body = json_body(molecule())
        reply = httpx2.post(f"{server.rest_url}/v1/models/lj/predict", json=body)
        assert reply.status_code == 200
        wait_until(lambda: (after := events.state())["models"]["lj"]["n_evaluations"] and after)
        assert events.state()["callers"] == {}
        assert "127.0.0.1" in httpx2.get(f"{server.metrics_url}/metrics").text


def test_events_need_a_key_for_metrics(guarded):
    url, keys, _ = guarded
    with Following(url, keys["viewer"]) as events:
        assert events.state()["models"].keys() == {"lj"}
    with Following(url, keys["caller"]) as events:
        assert events.reply.status_code == 403


def test_a_key_that_is_revoked_ends_its_events(guarded):
    url, keys, path = guarded
    with Following(url, keys["leaver"]) as events:
        events.state()
        assert run_keys(path, "revoke", "leaver")[0] == 0
        while events.raw() is not None:
            pass


def test_few_may_follow_at_once(monkeypatch):
    monkeypatch.setattr(live, "_MAX_VIEWERS", 2)
    with serve() as server:
        with Following(server.rest_url) as first, Following(server.rest_url) as second:
            first.state()
            second.state()
            with Following(server.rest_url) as third:
                assert third.reply.status_code == 429
                assert int(third.reply.headers["retry-after"]) > 0

        def is_admitted():
            with Following(server.rest_url) as later:
                return later.reply.status_code == 200

        wait_until(is_admitted)  # the service notices that the others have left


def test_a_stop_ends_the_events():
    server = serve()
    with Following(server.rest_url) as events:
        events.state()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        found = []
        while (event := events.raw()) is not None:
            found.append(event)
        stopping.join()
    assert found[-1] == "event: end\ndata: {}"


def test_the_reply_to_a_viewer_that_does_not_read_ends(monkeypatch):
    monkeypatch.setattr("twinforce_service.transports.rest.page.router._PATIENCE_S", 0.05)
    sent, is_closed = [], []

    async def events():
        try:
            while True:
                yield b"data: {}\n\n"
        finally:
            is_closed.append(True)

    async def send(message):
        sent.append(message["type"])
        if len(sent) > 2:  # the buffer is full from now on
            await asyncio.Event().wait()

    async def receive():
        await asyncio.Event().wait()

    async def reply():
        scope = {"type": "http", "method": "GET", "path": "/v1/events", "headers": []}
        await _EventsResponse(b"data: {}\n\n", events())(scope, receive, send)

    asyncio.run(asyncio.wait_for(reply(), 60))
    assert is_closed
    assert len(sent) == 3
