"""Evaluation of Pi-SQL: data sets, metrics, ablations, paired significance, reports (section 6)."""
