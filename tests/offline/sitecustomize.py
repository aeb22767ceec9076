"""No network but the machine's own: Python runs this at its start, if its folder is in PYTHONPATH.

`tests/conftest.py` puts it there for all programs that tests start, the notebooks' kernels among
them. What asks for another machine gets the error of a machine without a network.
"""

import errno
import ipaddress
import socket
import sys

_GUARDED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
_GUARDED |= {"socket.gethostbyname"}


def _own(host):
    """Whether a name or an address means this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", "<broadcast>") or host == socket.gethostname():
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(event, arguments):
    if event not in _GUARDED:
        return
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        address = arguments[1]
        if not isinstance(address, tuple):  # a Unix socket, or one that is connected already
            return
        host = address[0]
    if not _own(host):
        raise OSError(errno.ENETUNREACH, f"tests run without a network, and {host} is not here")


sys.addaudithook(_refuse)
