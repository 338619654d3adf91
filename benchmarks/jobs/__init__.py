"""Questions asked of the job queue; each module prints a table and writes JSON to `results/`."""
