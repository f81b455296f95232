"""The address a server listens on, opened before the model is loaded, so that a used port is reported at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from nanochat.console import UserError


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; UserError when the port is in use or the address is not this machine's."""
    if not 0 <= port <= 65535:
        raise UserError(f"there is no port {port}", "Choose one from 1 to 65535 with --port, or 0 for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"unknown host {host!r}", "Use --host=127.0.0.1, or --host=0.0.0.0 for all") from None
    server = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere the option lets two servers share a port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(128)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use", "Stop the other program, or choose another --port") from None
        if error.errno == errno.EACCES:
            raise UserError(f"you may not use port {port}", "Choose a --port above 1023") from None
        raise UserError(f"cannot listen on {host}: {error.strerror}", "Use --host=127.0.0.1") from None
    return server


def is_loopback(server: socket.socket) -> bool:
    return ipaddress.ip_address(server.getsockname()[0]).is_loopback


def url(server: socket.socket) -> str:
    """What to open in a browser on this machine."""
    host, port = server.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "::1" if address.version == 6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"
