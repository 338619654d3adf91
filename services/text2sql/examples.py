"""The example store: pairs are checked before they are kept."""

from __future__ import annotations

from services.text2sql.adapters import GatedEngine
from services.text2sql.pisql import sql_text
from services.text2sql.pisql.configuration import Limits
from services.text2sql.pisql.errors import PiSqlError, SqlFailedError
from services.text2sql.problems import SqlRefused
from services.text2sql.registry import Access
from services.text2sql.store import ExampleRow
from services.text2sql.wiring import Parts
from shared.database import new_id
from shared.principal import Principal

_LIMITS = Limits(result_rows=100)


async def check_sql(parts: Parts, access: Access, sql: str) -> None:
    """Pass a statement through names, gate and engine; raises `SqlRefused` with the reason."""
    try:
        unknown = sql_text.unknown_names(sql_text.clean(sql, access.schema), access.schema)
        if unknown:
            raise SqlFailedError("; ".join(str(item) for item in unknown[:5]))
        with await parts.registry.open(access) as database:
            await GatedEngine(database).run(sql, limits=_LIMITS)
    except PiSqlError as error:
        problem = SqlRefused(str(error))
        problem.instance_code = str(error.code)
        raise problem from None


async def store_example(
    parts: Parts, principal: Principal, access: Access, question: str, sql: str, source: str
) -> ExampleRow:
    """Keep a checked pair for the principal's tenant."""
    row = ExampleRow(
        id=new_id("example"),
        tenant=principal.tenant,
        database_id=access.row.id,
        question=question,
        sql=sql,
        fingerprint=access.row.fingerprint,
        source=source,
    )
    async with parts.database.session() as session:
        session.add(row)
    return row
