"""A snapshot as both runners take it: plain rows, and for the child one sealed memory file.

The file is marshal, written by this trusted side and read by the child; nothing that a child
writes is ever read as anything but JSON.
"""

import fcntl
import marshal
import os
import threading
import weakref

from shared.sandbox.contract import Snapshot, Table, plain_cell

_PLAIN = (type(None), bool, int, float, str)
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class EncodedSnapshot:
    """The tables with plain cells, and on demand the descriptor of the sealed file."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.tables = {name: _plain(table) for name, table in snapshot.tables.items()}
        self.today = snapshot.today
        self._lock = threading.Lock()
        self._file: tuple[int, int] | None = None

    def file(self) -> tuple[int, int]:
        """(descriptor, size in bytes); the descriptor is closed with this object."""
        with self._lock:
            if self._file is None:
                self._file = _write(self.tables, self.today)
                weakref.finalize(self, os.close, self._file[0])
            return self._file


_cache: "weakref.WeakKeyDictionary[Snapshot, EncodedSnapshot]" = weakref.WeakKeyDictionary()
_cache_lock = threading.Lock()


def encoded(snapshot: Snapshot) -> EncodedSnapshot:
    """The snapshot's one encoding; TypeError for a cell that has no plain form."""
    with _cache_lock:
        if snapshot not in _cache:
            _cache[snapshot] = EncodedSnapshot(snapshot)
        return _cache[snapshot]


def _plain(table: Table) -> Table:
    rows = []
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"a row has {len(row)} cells for {len(table.columns)} columns")
        # NaN is the one float that is no plain value
        plain = all(type(cell) in _PLAIN and cell == cell for cell in row)
        rows.append(tuple(row) if plain else tuple([plain_cell(cell) for cell in row]))
    return Table(table.columns, rows, table.oversized)


def _write(tables: dict[str, Table], today: str) -> tuple[int, int]:
    bodies = [marshal.dumps(list(table.rows)) for table in tables.values()]
    index, start = {}, 0  # offsets count from the end of the header
    for (name, table), body in zip(tables.items(), bodies, strict=True):
        index[name] = (list(table.columns), table.oversized, start, len(body))
        start += len(body)
    header = marshal.dumps({"today": today, "tables": index})
    descriptor = os.memfd_create("snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(len(header).to_bytes(8, "big") + header)
        for body in bodies:
            file.write(body)
        size = file.tell()
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor, size
