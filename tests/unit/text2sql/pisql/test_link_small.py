"""A small model sees only the tables its grammar can reach."""

from __future__ import annotations

from services.text2sql.pisql.objects import Question
from services.text2sql.pisql.stages.s3_linking import narrow
from tests.unit.text2sql.pisql.doubles import SHOP


def test_only_named_tables_stay() -> None:
    view = narrow(Question("q", "shop", "How many customers are there?"), SHOP, ())
    assert "customer" in {table.name for table in view.tables}
    assert view.pruned
    assert view.reasons["customer"] == "named by the question"
