"""HTTP in, HTTP out: validate, call, return."""
