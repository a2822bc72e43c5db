"""Servers of Node: one that speaks only HTTP/2, one that requires a client certificate."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.support.certificates import Authority
from tests.support.missing import skip_or_fail

_PROGRAM = """
const fs = require("fs"), http2 = require("http2"), https = require("https");
const [folder, kind] = process.argv.slice(1);
const read = name => fs.readFileSync(folder + "/" + name);
const tls = {key: read("server-key.pem"), cert: read("server.pem")};
let sessions = 0, open = 0, requests = 0;
const handle = (request, response) => {
  const chunks = [];
  request.on("data", chunk => chunks.push(chunk));
  request.on("end", () => {
    requests += 1;
    const body = JSON.stringify({
      sessions, open, requests, path: request.url, version: request.httpVersion,
      headers: request.headers, body: Buffer.concat(chunks).toString().slice(0, 100),
    });
    if (request.url == "/hang") return;
    if (request.url == "/refuse" && requests == 1) {
      return response.stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
    }
    if (request.url == "/goaway") return response.stream.session.destroy();
    response.writeHead(200, {"content-type": "application/json"});
    response.end(body);
  });
};
const asking = {...tls, requestCert: true, rejectUnauthorized: true, ca: read("ca.pem")};
const server = {
  mtls: () => https.createServer(asking, handle),
  h2: () => http2.createSecureServer(tls, handle),
  h2c: () => http2.createServer(handle),
}[kind]();
server.on("session", session => {
  sessions += 1;
  open += 1;
  session.on("close", () => { open -= 1; });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""


@contextmanager
def node_server(authority: Authority, kind: Literal["mtls", "h2", "h2c"]) -> Iterator[int]:
    """Run a server of Node until the end of the block; yields its port."""
    folder = str(authority.certificate.parent)
    try:
        process = subprocess.Popen(
            ["node", "-e", _PROGRAM, folder, kind], stdout=subprocess.PIPE, text=True
        )
    except FileNotFoundError:
        skip_or_fail("node is not installed: apt-get install nodejs")
    with process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
