"""S3: the part of the schema a question needs.

A schema that fits the prompt is kept whole, since pruning hurts strong models. A larger one is scored
by BM25 over names, descriptions and value hits; the best tables and those on the shortest foreign-key
paths between them form a draft, and one model call names what is used. Results are united over
retries, never intersected, and keys of kept tables always stay.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.text2sql.pisql import parsing, prompts, schema_text
from services.text2sql.pisql.configuration import ModelProfile, PromptStyle, Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import BadOutputError, ErrorCode
from services.text2sql.pisql.objects import Question, SchemaView, Table, ValueHit
from services.text2sql.pisql.readings import readings, tables_of
from services.text2sql.pisql.words import Bm25, stems


def rank_tables(question: Question, schema: SchemaView, hits: Sequence[ValueHit]) -> list[tuple[str, float]]:
    """(table name, score), best first; a value hit adds its score to its table."""
    documents = [_document(table) for table in schema.tables]
    scores = Bm25(documents).scores(stems(f"{question.text} {question.evidence}"))
    bonus: dict[str, float] = {}
    for hit in hits:
        bonus[hit.table] = max(bonus.get(hit.table, 0.0), hit.score)
    ranked = [
        (table.name, score + 2.0 * bonus.get(table.name, 0.0))
        for table, score in zip(schema.tables, scores, strict=True)
    ]
    return sorted(ranked, key=lambda item: (-item[1], item[0]))


def _document(table: Table) -> list[str]:
    texts = [table.name, table.name, table.description, *table.synonyms]
    for column in table.columns:
        texts += [column.name, column.description, *column.synonyms]
    return [word for text in texts for word in stems(text)]


def joining_tables(schema: SchemaView, kept: Iterable[str]) -> dict[str, str]:
    """Tables on the shortest foreign-key paths between kept ones, with the reason for each."""
    neighbours: dict[str, set[str]] = {table.name: set() for table in schema.tables}
    names = {table.name.lower(): table.name for table in schema.tables}
    for key in schema.foreign_keys:
        left, right = names.get(key.table.lower()), names.get(key.referred_table.lower())
        if left and right:
            neighbours[left].add(right)
            neighbours[right].add(left)
    wanted = list(dict.fromkeys(kept))
    added: dict[str, str] = {}
    for start in wanted:
        before = _search(start, neighbours)
        for goal in wanted:
            place = before.get(goal)
            while place is not None and place != start:
                if place not in wanted:
                    added.setdefault(place, f"joins {start} and {goal}")
                place = before[place]
    return added


def _search(start: str, neighbours: dict[str, set[str]]) -> dict[str, str | None]:
    """Breadth-first tree: table -> the table before it on a shortest path from `start`."""
    before: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue:
        place = queue.popleft()
        for following in sorted(neighbours[place]):
            if following not in before:
                before[following] = place
                queue.append(following)
    return before


def keep(schema: SchemaView, reasons: dict[str, str], columns: set[str] | None = None) -> SchemaView:
    """The view narrowed to the tables in `reasons`; with `columns`, to these and all keys."""
    tables = []
    for table in schema.tables:
        if table.name not in reasons:
            continue
        if columns is None:
            tables.append(table)
            continue
        keys = _key_columns(schema, table)
        chosen = [
            column
            for column in table.columns
            if f"{table.name}.{column.name}".lower() in columns or column.name.lower() in keys
        ]
        wanted = any(f"{table.name}.{column.name}".lower() in columns for column in table.columns)
        # A table of which no column was named is kept whole: the linker meant the table.
        tables.append(dataclasses.replace(table, columns=tuple(chosen if wanted else table.columns)))
    names = {table.name.lower() for table in tables}
    return dataclasses.replace(
        schema,
        tables=tuple(tables),
        foreign_keys=tuple(
            key
            for key in schema.foreign_keys
            if key.table.lower() in names and key.referred_table.lower() in names
        ),
        pruned=True,
        reasons=dict(reasons),
    )


def _key_columns(schema: SchemaView, table: Table) -> set[str]:
    keys = {name.lower() for name in table.primary_key}
    for key in schema.foreign_keys:
        if key.table.lower() == table.name.lower():
            keys |= {name.lower() for name in key.columns}
        if key.referred_table.lower() == table.name.lower():
            keys |= {name.lower() for name in key.referred_columns}
    return keys


@dataclass(frozen=True, slots=True)
class Links:
    """What one linking reply names, after validation; `dropped` names did not exist."""

    tables: tuple[str, ...]
    columns: tuple[str, ...]
    reasons: dict[str, str]
    answerability: str
    dropped: int


def read_links(text: str, schema: SchemaView) -> Links:
    """Validate a linker's reply against the catalogue; unknown names are dropped and counted."""
    value = parsing.json_value(text)
    if not isinstance(value, dict) or not isinstance(value.get("tables"), list):
        raise BadOutputError('answer with one JSON object that has "tables" and "columns"')
    dropped = 0
    tables: dict[str, None] = {}
    for name in value["tables"]:
        table = schema.table(str(name))
        if table is None:
            dropped += 1
        else:
            tables[table.name] = None
    columns: dict[str, None] = {}
    listed = value.get("columns")
    for name in listed if isinstance(listed, list) else ():
        owner, _, column_name = str(name).partition(".")
        table = schema.table(owner)
        column = table.column(column_name) if table else None
        if table is None or column is None:
            dropped += 1
        else:
            tables[table.name] = None
            columns[f"{table.name}.{column.name}"] = None
    given = value.get("reasons")
    reasons = {str(k): str(v)[:200] for k, v in given.items()} if isinstance(given, dict) else {}
    return Links(
        tuple(tables), tuple(columns), reasons, str(value.get("answerability", "answerable")), dropped
    )


def prompt_tokens(schema: SchemaView, profile: ModelProfile) -> int:
    """What the schema costs in a prompt of this model."""
    short = profile.style is PromptStyle.SHORT
    text = schema_text.one_line(schema) if short else schema_text.ddl(schema)
    return schema_text.estimate_tokens(text, profile.characters_per_token)


def fits(schema: SchemaView, context: StageContext) -> bool:
    """Whether the whole schema may stand in a prompt."""
    profile = context.profile(Role.PROGRAMMER)
    limit = min(context.configuration.link_tokens, profile.context_tokens // 2)
    return context.configuration.full_schema or prompt_tokens(schema, profile) <= limit


def narrow(question: Question, schema: SchemaView, hits: Sequence[ValueHit]) -> SchemaView:
    """For a small model: only tables that its grammar can reach, chosen by the question's cues."""
    found = tables_of(readings(schema, hits, question.text), schema)
    reasons = {table.name: "named by the question" for table in found}
    return keep(schema, reasons)


async def link(
    question: Question, schema: SchemaView, hits: Sequence[ValueHit], context: StageContext
) -> SchemaView:
    """The view later prompts show."""
    if context.profile(Role.PROGRAMMER).style is PromptStyle.SHORT and not context.configuration.full_schema:
        return narrow(question, schema, hits)
    if fits(schema, context):
        return schema
    settings = context.configuration
    ranked = rank_tables(question, schema, hits)
    reasons = {
        name: f"scored {score:.2f} for the question"
        for name, score in ranked[: settings.link_tables]
        if score > 0
    }
    if not reasons:
        reasons = {name: "first by name" for name, _ in ranked[: settings.link_tables]}
    reasons |= joining_tables(schema, reasons)
    draft = keep(schema, reasons)
    links = await _ask(question, draft, hits, context)
    if not links:
        return _truncated(draft, ranked, context)
    tables = list(dict.fromkeys(name for item in links for name in item.tables))
    chosen = {
        name: next((item.reasons[name] for item in links if name in item.reasons), "named by the linker")
        for name in tables
    }
    chosen |= joining_tables(schema, chosen)
    columns = {name.lower() for item in links for name in item.columns}
    columns |= {f"{hit.table}.{hit.column}".lower() for hit in hits if hit.table in chosen}
    return _truncated(keep(schema, chosen, columns or None), ranked, context)


async def _ask(
    question: Question, draft: SchemaView, hits: Sequence[ValueHit], context: StageContext
) -> list[Links]:
    """Replies that name at least one existing table, of as many calls as are configured."""
    profile = context.profile(Role.LINKER)
    messages = prompts.linker(question, draft, hits, profile)
    found = []
    for attempt in range(context.configuration.link_retries):
        links = await context.ask(
            Share.LINK,
            Role.LINKER,
            messages,
            lambda text: read_links(text, draft),
            temperature=0.0 if attempt == 0 else 0.7,
            seed=attempt,
        )
        if links is None:
            break
        if links.dropped:
            context.notice("names_dropped", f"the linker named {links.dropped} unknown names")
        if links.tables:
            found.append(links)
    return found


def _truncated(view: SchemaView, ranked: Sequence[tuple[str, float]], context: StageContext) -> SchemaView:
    """The view without its lowest-scored tables until it fits the model's context."""
    order = [name for name, _ in ranked]
    while len(view.tables) > 1 and not fits(view, context):
        worst = max(view.tables, key=lambda table: order.index(table.name)).name
        reasons = {name: why for name, why in view.reasons.items() if name != worst}
        view = keep(view, reasons)
        context.notice(ErrorCode.SCHEMA_TOO_LARGE, "the schema was cut to the best tables to fit the prompt")
    return view
