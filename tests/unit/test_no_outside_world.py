"""Negative controls of tests/conftest.py: what unit tests must not touch really fails here."""

import os
import socket
import subprocess
import sys
import time

import pytest

Failed = pytest.fail.Exception


def test_sleeping_fails() -> None:
    with pytest.raises(Failed, match=r"time\.sleep is forbidden"):
        time.sleep(0)


def test_a_socket_fails() -> None:
    with socket.socket() as sock, pytest.raises(Failed, match="a socket is forbidden"):
        sock.connect(("127.0.0.1", 9))


def test_a_process_and_so_a_ray_node_fails() -> None:
    with pytest.raises(Failed, match="a process is forbidden"):
        subprocess.run([sys.executable, "-V"], check=False)


def test_openmp_has_its_thread_count() -> None:
    assert os.environ["OMP_NUM_THREADS"]
