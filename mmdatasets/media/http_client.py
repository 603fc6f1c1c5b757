"""The client of `http(s)` references: which addresses it connects to, which redirects it follows, how much it takes.

The address is checked when the connection to it is made, that of each redirect too: neither a name that leads to
another address the second time that it is asked for, nor a literal in an unusual form, gets around that.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
import yarl

from mmdatasets.media.places import PrivateAddressError

if TYPE_CHECKING:
    import asyncio
    from types import SimpleNamespace

    Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291, and IANA's registry of it


class RefusedAnswerError(aiohttp.ClientError):
    """A server redirects to where it may not, or sends more than it was asked for."""


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, and, where it stands for another one, that is, too.

    Args:
        text: An IPv4 or IPv6 address, as `socket.getaddrinfo` gives them.
    """
    address = ipaddress.ip_address(text)
    return all(_is_global(one) for one in (address, *_embedded(address)))


def _is_global(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None and address not in _NAT64:
        # All that was assigned for the internet. Elsewhere lie old forms that stand for others, and sites' own.
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast


def _embedded(address: Address) -> list[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    teredo = address.teredo or ()
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *teredo]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def request_timeout(total_s: float, silence_s: float) -> aiohttp.ClientTimeout:
    """The timeout of one request: seconds in all, and without an answer, or further bytes of one."""
    return aiohttp.ClientTimeout(total=total_s, sock_connect=silence_s, sock_read=silence_s)


async def make_client(
    *,
    loop: asyncio.AbstractEventLoop,
    timeout_s: float,
    total_timeout_s: float,
    byte_limit: int,
    allow_private_addresses: bool,
) -> aiohttp.ClientSession:
    """What fsspec makes its connections with. It takes nothing from the environment, such as proxies.

    Args:
        loop: Where it runs.
        timeout_s: Seconds without an answer, or further bytes of one.
        total_timeout_s: Seconds that one request may take.
        byte_limit: Bytes that an answer may have.
        allow_private_addresses: Whether any address may be connected to.
    """
    socket_factory = None if allow_private_addresses else _public_socket
    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(_check_redirect)
    return aiohttp.ClientSession(
        loop=loop,
        connector=aiohttp.TCPConnector(loop=loop, socket_factory=socket_factory),
        timeout=request_timeout(total_timeout_s, timeout_s),
        # Ranges are those of the file itself, whose size is that without compression; what comes compressed all the
        # same stays so, whatever it would unfold to.
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        response_class=type("Answer", (_Answer,), {"byte_limit": byte_limit}),
        trace_configs=[redirects],
    )


def _public_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, address = info
    if family not in (socket.AF_INET, socket.AF_INET6) or not is_public(str(address[0])):
        raise PrivateAddressError("the host leads to an address that is not of the public internet")
    return socket.socket(family, kind, protocol)


async def _check_redirect(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    location = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
    target = params.url.join(yarl.URL(location))
    if target.scheme not in ("http", "https"):
        raise RefusedAnswerError(f"the server redirects to another protocol ({target.scheme[:20]})")
    if params.url.scheme == "https" and target.scheme == "http":
        raise RefusedAnswerError("the server redirects from https to http, where anyone on the way may answer")


class _Answer(aiohttp.ClientResponse):
    """An answer that is read up to the length that was asked for."""

    byte_limit: int

    async def read(self) -> bytes:
        wanted = _RANGE.fullmatch(self.request_info.headers.get("Range", ""))
        most = self.byte_limit if wanted is None else int(wanted[2]) + 1 - int(wanted[1])
        data = bytearray()
        async for chunk in self.content.iter_any():
            data += chunk
            if len(data) > most:
                self.close()
                raise RefusedAnswerError(f"the server sends more than the {most:,} bytes that it may")
        return bytes(data)
