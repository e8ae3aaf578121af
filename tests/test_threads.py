"""Work that makes more work, on one core and on several."""

import threading
import time

import pytest

from jaxqsdp._host import threads
from jaxqsdp._host.threads import work_off


@pytest.fixture(params=[1, 4])
def cores(request, monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: request.param)
    return request.param


def test_all_is_done_once(cores):
    done, names, lock = [], set(), threading.Lock()

    def expand(node):
        with lock:
            done.append(node)
            names.add(threading.current_thread().name)
        time.sleep(1e-3)
        return [2 * node, 2 * node + 1] if node < 64 else []

    assert work_off(expand, 1, time.monotonic() + 60)
    assert sorted(done) == list(range(1, 128))
    assert (len(names) > 1) == (cores > 1)


def test_depth_first(cores):
    """So that what waits stays little."""
    waiting, most, lock = 0, 0, threading.Lock()

    def expand(depth):
        nonlocal waiting, most
        with lock:
            waiting += 2 if depth < 12 else 0
            waiting -= 1
            most = max(most, waiting)
        return [depth + 1] * 2 if depth < 12 else []

    assert work_off(expand, 0, time.monotonic() + 60)
    assert most <= 12 * (cores + 2)


def test_the_end_of_time(cores):
    def endless(node):
        time.sleep(1e-3)
        return [node, node]

    start = time.monotonic()
    assert not work_off(endless, 0, start + 0.2)
    assert time.monotonic() - start < 10
    assert not work_off(endless, 0, start)


def test_what_fails_ends_it(cores):
    def failing(node):
        if node > 40:
            raise KeyError("wrong")
        return [2 * node, 2 * node + 1]

    with pytest.raises(KeyError, match="wrong"):
        work_off(failing, 1, time.monotonic() + 60)
