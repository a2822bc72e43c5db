"""How a session of requests reaches the API: a transport adapter that sends by libcurl.

The one that requests brings is made of urllib3 and http.client, and costs a worker more than all
else that it does for a job; nor has it a time-out for a whole request (docs/adr/0008).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from typing import Any

import pycurl
import requests
from requests.adapters import BaseAdapter
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ConnectTimeout,
    ReadTimeout,
    SSLError,
)
from requests.structures import CaseInsensitiveDict

from .authorities import system_ca_file
from .inherited import leave_to_parent
from .kept import is_stale, set_body

#: More of an answer's body is not read. (Of one in chunks by libcurl 8.4 and newer alone.)
MOST_BYTES = 1024 * 1024
#: libcurl's number of the option, for which pycurl has no name: a close waits for no name server.
_QUICK_EXIT = 322
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
#: Of "SSL certificate problem: …", and of newer ones' "… verify result: … (10)".
_WHY = re.compile(r"(?:problem|verify result): (.+?)(?: \(\d+\))?\Z")


class NotSent(ConnectionError):
    """There was no connection, so that nothing can have been taken."""


class Answer(requests.Response):
    """What came.

    Attributes:
        kind: the media type in lower case; empty where it said none.
        body: as it was sent, at most :data:`MOST_BYTES`.
        is_whole: whether that is all of it.
    """

    def __init__(self, status: int, kind: str, head: bytes, body: bytes, *, is_whole: bool) -> None:
        super().__init__()
        del self.headers  # most are never looked at, and are read late
        self.status_code, self.kind, self.body, self.is_whole = status, kind, body, is_whole
        self.raw, self._head = BytesIO(body), head

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """Those of the last answer, if interim ones came before it; trailers are none."""
        heads = [one for one in _BLANK_LINE.split(self._head) if one.startswith(b"HTTP/")]
        found: dict[str, str] = {}
        for line in heads[-1].decode("latin-1").splitlines()[1:] if heads else ():
            name, _, value = line.partition(":")
            found.setdefault(name, value.strip())
        return CaseInsensitiveDict(found)


class Session(requests.Session):
    """A session for one thread, with connections that it keeps.

    What is sent by its adapter knows no proxies, no .netrc, no cookies and no redirects.
    """

    def __init__(self) -> None:
        super().__init__()
        self._adapter = CurlAdapter()
        self.mount("http://", self._adapter)
        self.mount("https://", self._adapter)

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
    ) -> Answer:
        """Send a request of an address that is known to be right (see :meth:`CurlAdapter.send`).

        It is prepared by hand: what requests merges from a session and looks for in the address
        costs as much as sending it.
        """
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body
        request.headers = CaseInsensitiveDict(headers)
        return self._adapter.send(request, timeout=timeout)


class CurlAdapter(BaseAdapter):
    """Sends by a handle of libcurl's. Not safe to share between threads.

    What comes is written into buffers without any Python of ours: a worker that is told to stop
    interrupts its threads with an exception, which libcurl would swallow in a callback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._curl: Any = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # what there is of it is read
        timeout: Any = None,
        verify: Any = True,  # always, against the system's store
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; any status is an answer.

        Args:
            timeout: seconds for a connection, TLS included, and for all that comes after it,
                however slowly the server drips.

        Raises:
            ConnectTimeout, SSLError, NotSent: nothing was sent.
            ReadTimeout, ConnectionError: there was no answer.
            ChunkedEncodingError: there was a part of one.
        """
        curl, head, came = self._handle(), BytesIO(), BytesIO()
        connect, rest = timeout
        body = request.body.encode() if isinstance(request.body, str) else request.body
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, _millis(connect))
        curl.setopt(pycurl.TIMEOUT_MS, _millis(connect + rest))
        curl.setopt(pycurl.URL, request.url)
        if body is None:
            curl.setopt(pycurl.HTTPGET, 1)
        else:
            set_body(curl, body)
        curl.setopt(pycurl.CUSTOMREQUEST, request.method)
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        # A name alone leaves out what libcurl would add of its own.
        curl.setopt(pycurl.HTTPHEADER, [*headers, "Expect:", "Accept-Encoding:"])
        curl.setopt(pycurl.HEADERFUNCTION, head.write)
        curl.setopt(pycurl.WRITEFUNCTION, came.write)
        is_whole = True
        try:
            curl.perform()
        except pycurl.error as error:
            code, text = error.args
            is_whole = False
            if code != pycurl.E_FILESIZE_EXCEEDED:
                raise _failed(code, text, curl) from None
        lines = head.getvalue()
        if _BLANK_LINE.split(lines)[-1].startswith(b"HTTP/"):
            # Closed within its headers is an answer to libcurl, and none to us.
            raise ConnectionError("closed within the head of an answer")
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        kind = (curl.getinfo_raw(pycurl.CONTENT_TYPE) or b"").decode("latin-1")
        kind = kind.partition(";")[0].strip().lower()
        answer = Answer(status, kind, lines, came.getvalue(), is_whole=is_whole)
        answer.request, answer.url = request, request.url or ""
        return answer

    def _handle(self) -> Any:
        if self._curl is not None:
            socket = self._curl.getinfo(pycurl.ACTIVESOCKET)
            if socket >= 0 and is_stale([socket]):
                self.close()
        if self._curl is None:
            self._curl = _new_handle()
        return self._curl

    def close(self) -> None:
        """Close the connections; the next request makes new ones."""
        if self._curl is not None:
            self._curl.close()
            self._curl = None


def _new_handle() -> Any:
    """A handle with all that does not change between requests."""
    options = {
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.PROXY: "",  # unset would mean the environment's
        pycurl.NOSIGNAL: 1,
        pycurl.MAXFILESIZE: MOST_BYTES,
        pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
        pycurl.SSL_VERIFYPEER: 1,
        pycurl.SSL_VERIFYHOST: 2,
    }
    if ca_file := system_ca_file():
        options[pycurl.CAINFO] = ca_file
    curl = pycurl.Curl()
    for option, value in options.items():
        curl.setopt(option, value)
    with suppress(pycurl.error):  # not known before libcurl 7.87
        curl.setopt(_QUICK_EXIT, 1)
    leave_to_parent(curl)
    return curl


def _failed(code: int, text: str, curl: Any) -> requests.RequestException:
    """What went wrong. libcurl's own text may quote the url and is left out."""
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        # The words are OpenSSL's, and name at most the host.
        why = _WHY.search(text)
        return SSLError(why[1] if why else "it cannot be trusted")
    is_late = code == pycurl.E_OPERATION_TIMEDOUT
    if curl.getinfo(pycurl.REQUEST_SIZE) == 0:
        return ConnectTimeout() if is_late else NotSent(_NAMES.get(code, f"libcurl {code}"))
    if is_late:
        return ReadTimeout()
    if curl.getinfo(pycurl.RESPONSE_CODE):
        return ChunkedEncodingError(f"libcurl {code}")
    return ConnectionError(f"libcurl {code}")


_NAMES = {
    pycurl.E_COULDNT_RESOLVE_HOST: "its name was not found",
    pycurl.E_COULDNT_CONNECT: "refused, or no way to it",
    pycurl.E_SSL_CONNECT_ERROR: "no TLS could be agreed on",
}


def _millis(seconds: float) -> int:
    return max(1, int(seconds * 1000))
