"""`python -m benchmarks.text2sql`: overhead, selection and recovery; the real model runs on its own."""

from benchmarks.text2sql import overhead, recovery, selection


def main() -> None:
    """Run each; each prints a table and writes JSON."""
    for part in (overhead, selection, recovery):
        print(f"\n## {part.__name__.rpartition('.')[2]}", flush=True)
        part.main()


if __name__ == "__main__":
    main()
