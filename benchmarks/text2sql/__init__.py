"""Benchmarks of text2sql: what checking and repair recover, where the time goes, what a model scores."""
