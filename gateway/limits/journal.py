"""Settlements that could not reach Redis: a file of JSON lines, replayed when Redis is back.

A line is written before the settlement counts as done, so a crash during an outage loses nothing
that was settled. Replaying twice is harmless: Redis books each id once.
"""

from __future__ import annotations

import os
from pathlib import Path

import orjson


class Journal:
    """An append-only file; one per process, so that processes never write into each other's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"unsettled-{os.getpid()}.jsonl"
        self.waiting = 0

    def append(self, arguments: list[str | bytes | int]) -> None:
        """Keep the arguments of one settlement."""
        plain = [argument.decode() if isinstance(argument, bytes) else argument for argument in arguments]
        with self._path.open("ab") as file:
            file.write(orjson.dumps(plain) + b"\n")
        self.waiting += 1

    def take(self) -> list[tuple[Path, list[list[str | int]]]]:
        """Files with their entries: ours, and those of processes that are gone."""
        found: list[tuple[Path, list[list[str | int]]]] = []
        for path in sorted(self._folder.glob("unsettled-*.jsonl")):
            owner = path.stem.rpartition("-")[2]
            if path != self._path and owner.isdigit() and Path(f"/proc/{owner}").exists():
                continue
            entries = []
            for line in path.read_bytes().splitlines():
                try:
                    entries.append(orjson.loads(line))
                except orjson.JSONDecodeError:
                    continue  # The last line of a process that was killed while writing it.
            found.append((path, entries))
        return found

    def done(self, path: Path, count: int) -> None:
        """The first `count` entries of a file are booked; later ones stay."""
        lines = path.read_bytes().splitlines(keepends=True)[count:]
        if lines:
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(b"".join(lines))
            temporary.replace(path)
        else:
            path.unlink(missing_ok=True)
        if path == self._path:
            self.waiting = len(lines)
