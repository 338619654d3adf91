"""Programs that attack, read from attacks.toml, and what they would like to reach."""

import select
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path

_CORPUS = tomllib.loads(Path(__file__).with_name("attacks.toml").read_text())
_REACHING = ("denied", "error", "ok", "contract")
_FRAME = """
def solve(db):
    # Step 1: attack
    try:
{body}
    except BaseException as error:
        found = "stopped"
    # Step 2: report
    return {{"columns": ["found"], "rows": [[found]], "ordered": False}}
"""

REACHING_NAMES: list[str] = [entry["name"] for entry in _CORPUS["reach"]]


@dataclass(frozen=True)
class Attack:
    """A program, and the outcomes that count as contained."""

    name: str
    source: str
    contained: tuple[str, ...]


def reaching(canary: Path, directory: Path, parent: int, port: int) -> dict[str, Attack]:
    """Attacks on what is outside, by name: files, network, processes, the kernel."""
    attacks = {}
    for entry in _CORPUS["reach"]:
        body = entry["body"]
        for name, value in (("CANARY", canary), ("DIR", directory), ("PARENT", parent), ("PORT", port)):
            body = body.replace(f"${name}", str(value))
        indented = "\n".join(f"        {line}" for line in body.strip().splitlines())
        attacks[entry["name"]] = Attack(entry["name"], _FRAME.format(body=indented), _REACHING)
    return attacks


def exhausting() -> list[Attack]:
    """Attacks on time, memory, the interpreter and the result."""
    return [
        Attack(
            entry["name"],
            entry["source"].replace("$NESTED", "(" * 3_000 + "1" + ")" * 3_000),
            tuple(entry["contained"]),
        )
        for entry in _CORPUS["exhaust"]
    ]


class Listener:
    """A TCP port and a unix socket of this machine that must hear nothing."""

    def __init__(self, directory: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(directory / "socket"))
        self.unix.listen()
        self.port: int = self.tcp.getsockname()[1]

    def heard(self) -> bool:
        """Whether anyone connected."""
        return bool(select.select([self.tcp, self.unix], [], [], 0)[0])

    def close(self) -> None:
        self.tcp.close()
        self.unix.close()
