"""Writes deploy/locked.txt: what the image of the key-holding process installs, each file by its hash.

The gateway holds every key of the suite, so it takes nothing from the index that was not looked at
before: the versions are those of constraints.txt, and an archive with another hash is refused. Run it
again after changing either file: `python -m deploy.lock`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy.requirements import requirements

ROOT = Path(__file__).parents[1]
LOCKED = ROOT / "deploy" / "locked.txt"
EXTRAS = ("gateway",)
#: redis wants it before Python 3.11.3; pip asks the interpreter at hand, which may be newer than the image's.
CONDITIONAL = ("async-timeout",)
#: The image is Debian with Python 3.11, on either kind of server.
PLATFORMS = {
    "x86_64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64"),
    "aarch64": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64"),
}
PYTHON = "3.11"
HEAD = "# Written by `python -m deploy.lock`; installed with --require-hashes.\n"


def wanted() -> list[str]:
    """The requirements of the gateway as pyproject.toml states them."""
    project = ROOT / "pyproject.toml"
    return [*requirements(project, []), *requirements(project, list(EXTRAS)), *CONDITIONAL]


def resolved(platforms: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Name, version and sha256 of every archive pip would install on a platform."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"),
                *("--disable-pip-version-check", "--report", str(report), "--target", folder),
                *("--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON),
                *(part for name in platforms for part in ("--platform", name)),
                *("--constraint", str(ROOT / "constraints.txt")),
                *wanted(),
            ],
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    for item in found:
        metadata, archive = item["metadata"], item["download_info"]["archive_info"]
        yield metadata["name"], metadata["version"], archive["hashes"]["sha256"]


def render() -> str:
    """The text of the file: a line for each version, with the hashes of all platforms."""
    hashes: dict[str, set[str]] = {}
    for platforms in PLATFORMS.values():
        for name, version, digest in resolved(platforms):
            hashes.setdefault(f"{name}=={version}", set()).add(digest)
    lines = [
        " \\\n    ".join([pinned, *(f"--hash=sha256:{digest}" for digest in sorted(hashes[pinned]))])
        for pinned in sorted(hashes, key=str.lower)
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    LOCKED.write_text(render(), encoding="utf-8")
