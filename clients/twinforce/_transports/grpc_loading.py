"""gRPC, loaded so that processes that are forked can use it; import it from here."""

import atexit
import os
from typing import Any
from weakref import WeakKeyDictionary, finalize

# Work at import, because gRPC reads this when it is loaded. By default its threads wait in one
# `epoll` that the whole process shares. A child that is forked while a thread waits there, as
# happens whenever a stream is open, then waits for a thread that it does not have, or aborts. And
# by default gRPC writes lines on events such as the end of an idle connection to standard error.
_SETTINGS = {"GRPC_POLL_STRATEGY": "poll", "GRPC_VERBOSITY": "ERROR"}
_chosen_here = _SETTINGS.keys() - os.environ.keys()
os.environ.update({name: _SETTINGS[name] for name in _chosen_here})

import grpc as grpc  # noqa: E402

for _name in _chosen_here:  # programs that this process starts, such as a server, choose themselves
    del os.environ[_name]

from twinforce._connections.ownership import abandon  # noqa: E402

# The processes, this one and those that it was forked from, that used gRPC.
_USERS: set[int] = set()
# The channels for asyncio, and the processes that opened them.
_CHANNELS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
# The blocking calls with a stream of replies that still exist.
_CALLS: WeakKeyDictionary[Any, None] = WeakKeyDictionary()
_is_ending = False


def check_process(url: object) -> None:
    """Check that gRPC can be used in this process.

    Raises:
        RuntimeError: The process was forked from one that used gRPC with its support of forks
            switched off, so that calls would never end.
    """
    _USERS.add(os.getpid())
    switch = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "")
    if len(_USERS) > 1 and switch.lower() in ("0", "f", "false", "n", "no"):
        raise RuntimeError(
            f"{url}: expected GRPC_ENABLE_FORK_SUPPORT to be unset in a program that forks, got "
            f"{switch!r}: unset it, use http://, or start processes by 'spawn' or 'forkserver'"
        )


def own(channel: Any, owner: object) -> None:
    """Register a channel for asyncio, which is kept if its owner is dropped in a forked process.

    There its destructor would wait for a thread that does not exist.
    """
    pid = _CHANNELS[channel] = os.getpid()
    finalize(owner, _drop, channel, pid)


def check_asyncio(url: object) -> None:
    """Check that gRPC can serve asyncio in this process.

    Raises:
        RuntimeError: The process was forked from one that had a channel for asyncio open, whose
            thread serves all such channels and does not exist here.
    """
    if any(pid != os.getpid() for pid in list(_CHANNELS.values())):
        raise RuntimeError(
            f"{url}: expected a process that may use gRPC with asyncio, got one that was forked "
            "while an AsyncClient was connected over gRPC: close that client before the fork, or "
            "use Client or http:// in this process, or start it by 'spawn' or 'forkserver'"
        )


def outlive_exit(call: Any) -> None:
    """Keep a call with a stream of replies at exit, if it still exists then.

    Its destructor takes a lock. When Python ends it stops the threads of gRPC wherever they are,
    and one of them may hold that lock for good.
    """
    if _is_ending:
        abandon(call)
    else:
        _CALLS[call] = None


def _keep_calls() -> None:
    global _is_ending
    _is_ending = True
    for reference in _CALLS.keyrefs():
        abandon(reference())


# Exit functions run in reverse, so most of those of a program run before.
atexit.register(_keep_calls)


def _drop(channel: Any, pid: int) -> None:
    if os.getpid() != pid:
        abandon(channel)
