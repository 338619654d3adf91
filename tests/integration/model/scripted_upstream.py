"""An OpenAI-compatible upstream of a few lines: what it does is in the prompt."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


def chunk(text: str, reason: str | None = None) -> bytes:
    """One chunk, with spacing no re-serialising proxy would keep."""
    body = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1, "model": "hosted"}
    body["choices"] = [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]
    return b"data:  " + json.dumps(body, indent=1).replace("\n", " ").encode() + b"\n\n"


STREAM = [chunk("Hel"), chunk("lo"), chunk("", "stop"), b"data: [DONE]\n\n"]


class ScriptedUpstream:
    """Serves until left; `requests` holds what came, `hung_up` is set when a client closed early."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.hung_up = threading.Event()
        self.alive = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._json(200 if outer.alive else 500, {"object": "list", "data": []})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                if self.path.endswith("/embeddings"):
                    vector = {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}
                    usage = {"prompt_tokens": 1, "total_tokens": 1}
                    self._json(200, {"object": "list", "data": [vector], "model": "hosted", "usage": usage})
                    return
                getattr(self, "on_" + body["messages"][0]["content"].replace(" ", "_"))(body)

            def on_stream(self, _body: dict[str, Any]) -> None:
                self._stream(STREAM)

            def on_die(self, _body: dict[str, Any]) -> None:
                self._stream(STREAM[:2], end=False)

            def on_stop_short(self, _body: dict[str, Any]) -> None:
                self._stream(STREAM[:2])

            def on_die_at_once(self, _body: dict[str, Any]) -> None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

            def on_slowly(self, _body: dict[str, Any]) -> None:
                self._stream([STREAM[0]] * 200 + STREAM[1:], pause=0.05)

            def on_overload(self, _body: dict[str, Any]) -> None:
                self._json(429, {"error": {"message": "slow down", "type": "rate_limit_error"}})

            def on_break(self, _body: dict[str, Any]) -> None:
                self._json(500, {"error": {"message": "internal secret"}})

            def on_refuse(self, _body: dict[str, Any]) -> None:
                error = {"message": "no pictures", "type": "invalid_request_error", "param": "messages"}
                self._json(400, {"error": error | {"code": "no_pictures"}})

            def _json(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _stream(self, pieces: list[bytes], *, end: bool = True, pause: float = 0.0) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                try:
                    for piece in pieces:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                        time.sleep(pause)
                    if end:
                        self.wfile.write(b"0\r\n\r\n")
                        return
                except OSError:
                    outer.hung_up.set()
                self.close_connection = True

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
