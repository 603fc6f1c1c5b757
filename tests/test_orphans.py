import multiprocessing
import os
import time

import pytest

from mmdatasets.orphans import end_daemon_with_parent


def outlive_the_first_look() -> int:
    end_daemon_with_parent()
    time.sleep(1.2)
    return os.getppid()


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn"])
def test_a_process_of_a_pool_stays_while_its_parent_does(how: str) -> None:
    """With `forkserver`, the process that forks it is not the one that it works for."""
    with multiprocessing.get_context(how).Pool(1) as pool:
        parent = pool.apply_async(outlive_the_first_look).get(timeout=60)
    assert (parent == os.getpid()) is (how != "forkserver")
