"""Put a result into the guide: `python -m benchmarks.gateway.publish [results/gateway.json]`.

Replaces what stands between two markers in docs/benchmarks/gateway.md; the words around it stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "gateway.json"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "gateway.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

_WORDS = {True: "met", False: "**missed**", None: "not measured"}


def section(result: dict[str, Any]) -> str:
    """A result as Markdown: where it was measured, the tables, the verdicts."""
    machine, options = result["machine"], result["options"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    load = machine["load_average"][0]
    nice = "" if options["nice"] is None else f", scheduler priority {options['nice']}"
    lines = [
        f"Measured {result['at'][:10]} on {machine['cores']} cores of {machine['cpu']}: proxies on core "
        f"{machine['proxy_core']}, everything else on core {machine['other_core']}; "
        f"rounds: {options['rounds']}{nice}; load average of the machine before the run {load:.1f}. "
        f"Python {machine['python']}, {packages}.",
        "",
        result["tables"],
        "",
        "| target | measured | |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {verdict['target']} | {verdict['measured']} | {_WORDS[verdict['met']]} |"
        for verdict in result["verdicts"]
    ]
    if result["memory"]:
        megabytes = " ".join(f"{size / 2**20:.1f}" for size in result["memory"]["resident_bytes"])
        lines += ["", f"Resident memory along the way, MiB: {megabytes}."]
    for name, reason in result["missing"].items():
        lines += ["", f"Not measured: {name} ({reason.splitlines()[0]})."]
    return "\n".join(lines)


def insert(page: str, text: str) -> str:
    """The page with `text` between its markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    """Rewrite the page from the JSON named on the command line, or from the latest one."""
    result = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULT).read_text())
    PAGE.write_text(insert(PAGE.read_text(), section(result)))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
