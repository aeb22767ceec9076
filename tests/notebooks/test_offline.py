"""The notebooks run without a network: what tests start can reach nothing but this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ELSEWHERE = "192.0.2.1"  # RFC 5737: an address for documents, nobody's
REACH = f"""
import socket, urllib.request
for reach in (
    lambda: socket.create_connection(("{ELSEWHERE}", 80), 1),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"?", ("{ELSEWHERE}", 53)),
    lambda: socket.getaddrinfo("example.org", 443),
    lambda: urllib.request.urlopen("http://example.org", timeout=1),
):
    try:
        reach()
    except OSError as error:
        print("without a network" in str(error))
"""


def test_programs_that_tests_start_reach_nothing_elsewhere():
    said = subprocess.run([sys.executable, "-c", REACH], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True"] * 4


def test_a_kernel_reaches_nothing_elsewhere():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(REACH)])
    NotebookClient(notebook, timeout=60).execute()
    assert notebook.cells[0].outputs[0].text.split() == ["True"] * 4


def test_the_machine_itself_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('localhost', {port}), 5)"
        subprocess.run([sys.executable, "-c", program], check=True)


def test_the_guard_stands_before_whatever_else_is_on_the_path():
    assert Path(os.environ["PYTHONPATH"].split(os.pathsep)[0], "sitecustomize.py").is_file()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", ""])
def test_names_of_this_machine_are_let_through(host):
    program = f"import socket, sitecustomize; print(sitecustomize._own({host!r}))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.strip() == "True", said.stderr
