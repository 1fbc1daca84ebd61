"""Memory that threads share."""

import os
import threading
import time

import pytest

from crossstage.errors import DataError
from crossstage.reading.budget import Budget


def test_threads_never_hold_more_than_there_is():
    budget, held, most = Budget(100), [0], [0]
    lock = threading.Lock()

    def work():
        for _ in range(20):
            with budget.taken(40, "x"):
                with lock:
                    held[0] += 40
                    most[0] = max(most[0], held[0])
                time.sleep(0.0002)
                with lock:
                    held[0] -= 40

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert held == [0] and most[0] == 80


def test_what_can_never_be_had_is_refused():
    message = "x: reading it would take 3,000 MB of memory; expected at most 2,000 MB"
    with pytest.raises(DataError, match=message), Budget(2_000_000_000).taken(3_000_000_000, "x"):
        pass


def test_an_error_gives_back_what_was_taken():
    budget = Budget(10)
    with pytest.raises(KeyError), budget.taken(10, "x"):
        raise KeyError
    with budget.taken(10, "x"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_all_of_it():
    budget = Budget(10)
    with budget.taken(10, "x"):
        child = os.fork()
        if child == 0:
            with budget.taken(10, "x"):
                os._exit(7)
    for _ in range(100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
