"""Bring a killed private Redis back on its old port, with its old data and password."""

from __future__ import annotations

import subprocess
import time

from deploy.redis_server import RedisServer, answers, die_with_parent, redis_binary


def restart(server: RedisServer, *, lose_data: bool = False) -> RedisServer:
    """Start the server of `server.folder` again; `lose_data` removes its append-only file before."""
    if lose_data:
        for file in (server.folder / "appendonlydir").glob("*"):
            file.unlink()
    process = subprocess.Popen(
        [redis_binary(), str((server.folder / "redis.conf").resolve())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    deadline = time.monotonic() + 10
    while not answers(server.url):
        assert time.monotonic() < deadline, "the server did not come back"
        time.sleep(0.02)
    return RedisServer(process, server.url, server.folder)
