"""A double of the API server on loopback: answers each request with the next entry of a script.

An entry is (status, headers, body) for HTTP, a list of frames for exec ("hang" among them keeps silent), or
None, which drops the connection. The last entry is given again and again.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        server = self.server
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode()
        server.asked.append((self.command, self.path, self.headers.get("authorization"), body))
        entry = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        if entry is None:
            self.connection.close()
            self.close_connection = True
        elif isinstance(entry, list):
            self.talk(entry)
        else:
            status, headers, told = entry
            data = (told if isinstance(told, str) else json.dumps(told)).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - http.server looks for these names

    def talk(self, frames):
        key = self.headers["sec-websocket-key"] + GUID
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "upgrade")
        self.send_header("sec-websocket-protocol", "v4.channel.k8s.io")
        self.send_header(
            "sec-websocket-accept",
            base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode(),
        )
        self.end_headers()
        self.close_connection = True
        for frame in frames:
            if frame == "hang":
                self.server.released.wait(10)
                return
            head = bytes([0x82, len(frame)]) if len(frame) < 126 else b"\x82\x7e" + len(frame).to_bytes(2)
            self.wfile.write(head + frame)
        self.wfile.flush()


@contextmanager
def api_double(folder, script):
    """The double and a kubeconfig for it: yields (server, path)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.asked, server.released = list(script), [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    config = folder / "kubeconfig"
    write_kubeconfig(config, server.server_address[1], "first")
    try:
        yield server, config
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def write_kubeconfig(path, port, token):
    named = [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": named,
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(document))
