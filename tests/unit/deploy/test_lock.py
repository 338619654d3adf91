"""LiteLLM #24518: two malicious releases in one month. Few libraries where the keys are, each by its hash."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.lock import LOCKED, PLATFORMS, wanted

ROOT = Path(__file__).parents[3]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)
#: Raised only with a reason: each is code that runs beside every key of the suite.
MOST_LIBRARIES = 70


def locked() -> dict[str, tuple[str, int]]:
    """Version and number of hashes by library."""
    found = PINNED.findall(LOCKED.read_text())
    return {
        str(canonicalize_name(name)): (version, hashes.count("--hash")) for name, version, hashes in found
    }


def test_litellm_24518_every_library_beside_the_keys_is_pinned_by_hash() -> None:
    lines = [line for line in LOCKED.read_text().splitlines() if line and not line.startswith(("#", " "))]
    assert len(locked()) == len(lines), "a line without version or hash"
    assert all(1 <= hashes <= len(PLATFORMS) for _, hashes in locked().values())
    assert "--require-hashes --no-deps -r locked.txt" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_litellm_24518_few_libraries_stand_beside_the_keys() -> None:
    assert len(locked()) <= MOST_LIBRARIES


def test_the_lock_is_fresh() -> None:
    """`python -m deploy.lock` mends it."""
    versions = {name: version for name, (version, _) in locked().items()}
    for line in wanted():
        requirement = Requirement(line)
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked"
        assert requirement.specifier.contains(version), requirement.name
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    chosen = {str(canonicalize_name(name)): version.strip() for name, version in pins}
    assert {name: version for name, version in versions.items() if chosen.get(name, version) != version} == {}
