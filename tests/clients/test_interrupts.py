"""An interrupt leaves a client that works, at whatever point it comes and however often."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.clients import interrupting
from tests.clients.proxy import CountingProxy
from tests.clients.serving import port_of
from tests.systems import molecule
from twinforce import Client

PROGRAMS = [
    interrupting.a_stream,
    interrupting.a_client,
    interrupting.a_run,
    interrupting.opening_and_closing,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_that_is_interrupted_at_random(program, url):
    done = subprocess.run(
        [sys.executable, "-m", interrupting.__name__, program.__name__, url],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


@pytest.fixture
def proxy(url):
    proxy = CountingProxy(port_of(url))
    yield proxy
    proxy.close()


@pytest.fixture
def client(url, proxy):
    with Client(f"{url.partition(':')[0]}://127.0.0.1:{proxy.port}") as client:
        yield client


def interrupted_while_held(proxy, call, error=KeyboardInterrupt):
    """Interrupt a call that waits for its reply."""
    n_bytes = proxy.n_bytes_sent
    proxy.hold()

    def interrupt():
        while proxy.n_bytes_sent < n_bytes + 100 * 3 * 8:
            threading.Event().wait(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(error) as raised:
        call()
    thread.join()
    return raised.value


def test_the_reply_to_an_interrupted_step_is_not_taken_for_the_next_one(client, proxy):
    with client.stream("lj") as stream:
        for predict in (stream.predict, client.predict):
            expected = predict(molecule(3)).energy
            interrupted_while_held(proxy, lambda predict=predict: predict(molecule(200)))
            proxy.resume()
            assert predict(molecule(3)).energy == pytest.approx(expected)


def test_a_stream_that_was_interrupted_is_closed_while_nothing_answers(client, proxy):
    stream = client.stream("lj")
    stream.predict(molecule(3))
    interrupted_while_held(proxy, lambda: stream.predict(molecule(200)))
    stream.close()
    client.close()  # nobody lets the replies through


class Alarm:
    """A signal handler that raises an error which libraries for sockets take for their own."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_):
        raise self.error


@pytest.mark.parametrize("error", [TimeoutError("time is up"), ConnectionResetError("stop")])
@pytest.mark.parametrize("call", ["predict", "stream", "relax"])
def test_the_error_of_a_signal_handler_ends_the_call_that_it_interrupts(client, proxy, error, call):
    stream = client.stream("lj")
    calls = {
        "predict": lambda: client.predict(molecule(200)),
        "stream": lambda: stream.predict(molecule(200)),
        "relax": lambda: next(client.relax(molecule(200))),
    }
    expected = client.predict(molecule(3)).energy
    assert stream.predict(molecule(3)).energy == pytest.approx(expected)
    before = signal.signal(signal.SIGINT, Alarm(error))
    try:
        assert interrupted_while_held(proxy, calls[call], type(error)) is error
    finally:
        signal.signal(signal.SIGINT, before)
    proxy.resume()
    assert client.predict(molecule(3)).energy == pytest.approx(expected)


@pytest.mark.parametrize("error", [TimeoutError("time is up"), ConnectionResetError("stop")])
def test_the_error_of_a_signal_handler_ends_a_call_that_is_being_sent(error):
    before = signal.signal(signal.SIGINT, Alarm(error))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def interrupt():
            with server.accept()[0] as connection:
                connection.recv(1, socket.MSG_PEEK)
                time.sleep(0.2)  # the client waits for room
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                thread.is_over.wait(60.0)

        thread = threading.Thread(target=interrupt)
        thread.is_over = threading.Event()
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            with Client(url, timeout=5.0) as client, pytest.raises(type(error)) as raised:
                client.predict(molecule(300_000), model="lj")
            assert raised.value is error
        finally:
            thread.is_over.set()
            signal.signal(signal.SIGINT, before)
            thread.join()


def test_a_signal_handler_may_close_what_it_interrupts(client, proxy):
    stream = client.stream("lj")
    stream.predict(molecule(3))

    def close(*_):
        stream.close()
        client.close()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, close)
    try:
        interrupted_while_held(proxy, lambda: stream.predict(molecule(200)))
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(RuntimeError, match="is closed"):
        stream.predict(molecule(3))


def test_a_signal_handler_may_use_the_stream_that_it_interrupts(client, proxy):
    stream = client.stream("lj")
    expected = stream.predict(molecule(3)).energy
    energies = []

    def use(*_):
        proxy.resume()
        energies.append(stream.predict(molecule(3)).energy)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, use)
    try:
        interrupted_while_held(proxy, lambda: stream.predict(molecule(200)))
    finally:
        signal.signal(signal.SIGINT, before)
    energies.append(stream.predict(molecule(3)).energy)
    assert energies == pytest.approx([expected] * 2)


def test_a_program_that_is_stopped_during_a_step_exits(url):
    program = """
import os, signal, sys, threading
from tests.clients.proxy import CountingProxy
from twinforce import Client, System
proxy = CountingProxy(int(sys.argv[2]))
client = Client(sys.argv[1].partition(":")[0] + "://127.0.0.1:" + str(proxy.port))
stream = client.stream("lj")
step = lambda: stream.predict(System([18], [[0.0, 0, 0]]))
step()
proxy.hold()
for seconds in (0.1, 0.11):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
step()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, url, str(port_of(url))],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
