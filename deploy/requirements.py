"""Prints the requirements of the suite, or of the named extras, one per line; for the image build."""

import sys
import tomllib
from pathlib import Path


def requirements(project: Path, extras: list[str]) -> list[str]:
    """Requirements of the named extras, or the base ones when none is named."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    if not extras:
        return list(table["dependencies"])
    return [line for extra in extras for line in table["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
