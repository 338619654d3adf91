"""Writes the generated parts of the client: the synchronous half, and the models.

    python sdk/generate.py            write both
    python sdk/generate.py --check    write nothing; exit 1 and name what has drifted

`latticework/_sync` is `latticework/_async` with waiting taken out. `latticework/models.py` is the
merged OpenAPI document of the suite, read by datamodel-code-generator.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "latticework"
HAND_WRITTEN = {"_io.py"}
HEADER = "# Generated from {source} by sdk/generate.py; do not edit.\n"

# Longest first where one contains another.
RULES = [
    (r"\basync def\b", "def"),
    (r"\basync with\b", "with"),
    (r"\basync for\b", "for"),
    (r"\bawait\s+", ""),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\baclosing\b", "closing"),
    (r"\banext\b", "next"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bAwaitable, ", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bhttpx2\.Async(\w+)", r"httpx2.\1"),
    (r"\bopenai\.AsyncOpenAI\b", "openai.OpenAI"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\b_async\b", "_sync"),
    (r"\b__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\ba(close|read|iter_bytes)\(", r"\1("),
    (r"\basynchronous\b", "synchronous"),
]  # fmt: skip


def synchronous(source: str) -> str:
    """The synchronous twin of asynchronous source code."""
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source)
    return source


def sync_files() -> dict[Path, str]:
    """Every file of `_sync` that is generated, with its content."""
    files: dict[Path, str] = {}
    for source in sorted((PACKAGE / "_async").rglob("*.py")):
        relative = source.relative_to(PACKAGE / "_async")
        if relative.name in HAND_WRITTEN:
            continue
        header = HEADER.format(source=f"latticework/_async/{relative}")
        files[PACKAGE / "_sync" / relative] = formatted(header + synchronous(source.read_text()))
    return files


def formatted(source: str) -> str:
    """The source in the house style."""
    ruff = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(PACKAGE / "_sync" / "generated.py")]
    sorted_imports = _pipe(
        [*ruff, "check", "-q", "--select", "I,F401,UP028", "--fix", "--unsafe-fixes", *name, "-"], source
    )
    return _pipe([*ruff, "format", "-q", *name, "-"], sorted_imports)


def _pipe(command: list[str], text: str) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    wanted = sync_files()
    stale = [path for path, content in wanted.items() if not path.exists() or path.read_text() != content]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(PACKAGE.parent)} has drifted; run: python sdk/generate.py")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
        print(f"wrote {path.relative_to(PACKAGE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
