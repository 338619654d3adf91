"""S4: approved question/SQL pairs that look like the question (the idea of DAIL-SQL).

Similarity joins two parts: the questions with schema words and values masked, and the skeletons of
their SQL. Before any SQL exists, the question's own skeleton is sketched from its cue words.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from services.text2sql.pisql import sql_text
from services.text2sql.pisql.objects import Example, Question, SchemaView, ValueHit
from services.text2sql.pisql.words import STOP_WORDS, cosine, name_words, stem

_CUES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\bhow many\b|\bnumber of\b|\bcount\b", ("count",)),
    (r"\baverage\b|\bmean\b", ("avg",)),
    (r"\btotal\b|\bsum\b", ("sum",)),
    (r"\b(maximum|highest|largest|most|oldest|latest|longest|biggest|greatest)\b", ("order", "limit")),
    (r"\b(minimum|lowest|smallest|least|youngest|earliest|shortest|fewest)\b", ("order", "limit")),
    (r"\b(each|per|every|by)\b", ("group",)),
    (r"\b(sorted|order|ordered|alphabetical|descending|ascending)\b", ("order",)),
    (r"\b(at least|more than|fewer than|less than)\b", ("having", "where")),
    (r"\b(not|never|without|except|no)\b", ("except",)),
    (r"\b(both)\b", ("intersect",)),
    (r"\b(different|distinct|unique)\b", ("distinct",)),
)
_KEYWORDS = [
    "count",
    "avg",
    "sum",
    "min",
    "max",
    "group",
    "having",
    "order",
    "limit",
    "distinct",
    "union",
    "intersect",
    "except",
    "join",
    "where",
    "exists",
    "in",
    "like",
    "between",
    "case",
    "over",
    "with",
]


def mask(text: str, schema: SchemaView, hits: Sequence[ValueHit] = ()) -> Counter[str]:
    """The question as counted words, schema words as `<s>` and values as `<v>`."""
    plain = text
    for hit in sorted(hits, key=lambda item: -len(item.keyword)):
        plain = re.sub(re.escape(hit.keyword), " \x00 ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\"[^\"]*\"|'[^']*'|\b\d+(?:\.\d+)?\b", " \x00 ", plain)
    vocabulary = {
        stem(word)
        for table, column in schema.columns()
        for word in [*name_words(table.name), *name_words(column.name)]
        if word not in STOP_WORDS
    }
    words: Counter[str] = Counter()
    for part in re.split(r"(\x00)", plain):
        if part == "\x00":
            words["<v>"] += 1
            continue
        for word in name_words(part):
            words["<s>" if stem(word) in vocabulary else stem(word)] += 1
    return words


def sketch(question: str) -> Counter[str]:
    """SQL features a question's cue words suggest."""
    lowered = question.lower()
    return Counter(
        feature for pattern, features in _CUES if re.search(pattern, lowered) for feature in features
    )


def features(sql: str, dialect: str) -> Counter[str]:
    """SQL features of a statement's skeleton."""
    words = re.findall(r"[a-z]+", sql_text.skeleton(sql, dialect).lower())
    return Counter(word for word in words if word in _KEYWORDS)


def retrieve(
    question: Question,
    schema: SchemaView,
    examples: Sequence[Example],
    hits: Sequence[ValueHit],
    count: int,
    preliminary_sql: str = "",
) -> tuple[Example, ...]:
    """The `count` most similar pairs, those of the same database first.

    A pair of this database with another fingerprint is marked stale. The question's own text never
    returns as an example of itself.
    """
    wanted = mask(question.text, schema, hits)
    shape = features(preliminary_sql, schema.dialect) if preliminary_sql else sketch(question.text)
    scored = []
    for example in examples:
        own = example.database_id == question.database_id
        if own and example.question.strip().lower() == question.text.strip().lower():
            continue
        words = mask(example.question, schema)
        score = 0.6 * cosine(wanted, words) + 0.4 * cosine(shape, features(example.sql, schema.dialect))
        stale = own and bool(example.fingerprint) and example.fingerprint != schema.fingerprint
        scored.append(dataclasses.replace(example, score=round(score, 6), stale=stale))
    scored.sort(key=lambda item: (item.database_id != question.database_id, -item.score, item.id))
    return tuple(scored[:count])
