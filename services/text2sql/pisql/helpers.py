"""Names of the SQL helper functions that the sandbox offers to programs (section 4).

The functions themselves live with the sandbox, which picks their semantics by dialect.
"""

from __future__ import annotations

HELPER_NAMES = [
    "sql_div",
    "sql_mod",
    "sql_round",
    "sql_sum",
    "sql_avg",
    "sql_count",
    "sql_min",
    "sql_max",
    "sql_like",
    "sql_compare",
    "sql_eq",
    "sql_not",
    "sql_and",
    "sql_or",
    "sql_in",
    "sort_key",
    "sort_rows",
    "cut",
    "distinct",
    "group",
    "join",
]
