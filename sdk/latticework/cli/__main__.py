"""`python -m latticework.cli` is `lattice`."""

from latticework.cli import main

main()
