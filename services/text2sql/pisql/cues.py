"""What a question's own words say about its SQL, for models too small to be trusted with it.

Knows no model: cue words, the schema's names, value hits and numbers narrow what the question can mean. A
small model then chooses among few readings (`readings`) instead of writing freely. Where no cue speaks,
nothing is ruled out. The words are English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.text2sql.pisql.objects import Column, MatchKind, SchemaView, Table, ValueHit
from services.text2sql.pisql.words import STOP_WORDS, content_words, name_words, stem, stems

_COUNT = re.compile(r"\bhow many\b|\bnumber of\b|\band numbers of\b|\bcount\b")
_AGGREGATES = {
    "avg": re.compile(r"\b(average|mean)\b"),
    "sum": re.compile(r"\b(total|sum|overall)\b"),
    "max": re.compile(r"\b(maximum|max|highest|largest|greatest|biggest|oldest|latest|longest|heaviest)\b"),
    "min": re.compile(r"\b(minimum|min|lowest|smallest|youngest|earliest|shortest|lightest)\b"),
}
_NOUN = {"max": re.compile(r"\b(maximum|max)\b"), "min": re.compile(r"\b(minimum|min)\b")}
_BOTH = re.compile(r"\b(both|and also)\b")
_DOWN = re.compile(
    r"\b(most|highest|largest|greatest|biggest|oldest|latest|longest|heaviest|best|maximum|top|"
    r"descending|decreasing)\b"
)
_UP = re.compile(
    r"\b(least|lowest|smallest|fewest|youngest|earliest|shortest|lightest|worst|minimum|ascending|increasing)\b"
)
_AT_LEAST_MOST = re.compile(r"\bat (least|most)\b")
_SORT = re.compile(r"\b(sort|sorted|order|ordered|ascending|descending|alphabetic\w*|lexicographic\w*)\b")
_HIGH_TO_LOW = re.compile(
    r"\bfrom (high|old|large|big|most|highest|oldest|largest)\w* to\b|\bthe oldest to\b"
)
_LOW_TO_HIGH = re.compile(r"\bfrom (low|young|small|least|lowest|youngest|smallest)\w* to\b")
_GROUP = re.compile(r"\b(each|every|per|corresponding|respective|respectively)\b")
_DISTINCT = re.compile(r"\b(different|distinct|unique)\b")
_ABSENCE = re.compile(
    r"\b(without|never|no|not (?:have|has|had)|(?:do|does|did|have|has|had)(?: not|n't)|except\w*)\b"
)
_NEGATION = re.compile(r"\b(not|other than|except|excluding|isn't|aren't)\b")
_EITHER = re.compile(r"\b(or|either)\b")
_THAN_AVERAGE = re.compile(
    r"\b(above|over|older than|higher than|more than|greater than|larger than|longer than|heavier than|"
    r"below|under|younger than|lower than|less than|smaller than|shorter than|lighter than) "
    r"(?:the |than )?average\b"
)
_BELOW = ("below", "under", "younger", "lower", "less", "smaller", "shorter", "lighter")
_COMMON = re.compile(r"\b(common|popular|frequent|frequently|often)\b")
_CONTAINS = re.compile(r"\b(contain\w*|includ\w*|substring|(?:the )?word|letter|having)\b")
_STARTS = re.compile(r"\b(start\w*|begin\w*|prefix)\b")
_ENDS = re.compile(r"\b(end|ends|ending|suffix)\b")
_QUOTED = re.compile(r"[\"“]([^\"”]{1,80})[\"”]|(?<!\w)'([^']{1,80})'(?!\w)")

_NUMBER = re.compile(
    r"(?<![\w.'])(\d+(?:\.\d+)?|two|three|four|five|six|seven|eight|nine|ten|one|once|twice)(?![\w'])"
)
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_TIMES = {"once": "1", "twice": "2"}
_LEFT = (
    (">=", re.compile(r"\b(?:not|no) (?:less|fewer|younger|lower|smaller|shorter) than\s*$")),
    ("<=", re.compile(r"\b(?:not|no) (?:more|\w+er) than\s*$")),
    (">=", re.compile(r"\b(at least|no less than|minimum of|between|since)\s*$")),
    ("<=", re.compile(r"\b(at most|no more than|up to|between \S+ and)\s*$")),
    ("<", re.compile(r"\b(less|fewer|younger|lower|smaller|shorter|lighter|earlier) than\s*$")),
    ("<", re.compile(r"\b(under|below|before)\s*(?:age|year|the year)?\s*$")),
    (">", re.compile(r"\b\w+er than\s*$|\bmore than\s*$|\bexceed\w*\s*$")),
    (">", re.compile(r"\b(over|above|after)\s*(?:age|year|the year)?\s*$")),
)
_RIGHT = (
    (">=", re.compile(r"^\s*(?:\w+ )?(?:or|and) (more|above|after|later|older|over|higher)\b(?! \d)")),
    ("<=", re.compile(r"^\s*(?:\w+ )?(?:or|and) (less|fewer|below|before|earlier|younger|lower)\b(?! \d)")),
)
_CUT = re.compile(r"\b(top|first|best|last)\s*$")

_OPENING = re.compile(
    r"^(?:(?:for|in|of) (?:each|every|all) [^,]{1,60}, )?"
    r"(?:(?:please|what|which|who|list|show|find|give|return|tell|display|how many|count|report|compute|"
    r"is|are|was|were|me|us|the|all|of|a|an|and) )*"
)
_MARKER = re.compile(
    r"\b(whose|who|that|which|where|with|without|ordered|sorted|order|sort|by|from|for|having|has|have|had|"
    r"in|on|above|below|older|younger|after|before|except|when|performed|did|does|do|not|but|among|between|"
    r"at|per|each|every|is|are|was|were|over|under|during|live|lives|play|plays|there|belonging|than)\b"
)


LONG = 6
MOST_DESCRIBED = 8


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the question: its digits, where its word stands, how it compares, what follows it.

    `cut` marks a number of rows, as in "top 3".
    """

    text: str
    at: int
    operator: str
    cut: bool
    following: tuple[str, ...]


class Pattern(NamedTuple):
    """A LIKE pattern of the question, and where its word stands."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Cues:
    """The readings a question leaves open.

    `head` says how many of the question's words come before its first condition: what is asked for stands
    there. `weights` say how strongly a table or `table.column` (lowered) is named. `values` has for every
    value the question speaks of how surely it does (1: word for word) and the tables that hold it.
    `than_average` is `>` or `<` where something is compared with its average.
    """

    words: tuple[str, ...]
    head: int
    count: bool
    aggregates: tuple[str, ...]
    sort: bool
    descending: bool
    ascending: bool
    extreme: bool
    superlative: bool
    common: bool
    group: bool
    distinct: bool
    absence: bool
    negation: bool
    either: bool
    both: bool
    than_average: str
    patterns: tuple[Pattern, ...]
    numbers: tuple[Number, ...]
    weights: dict[str, float]
    values: tuple[tuple[float, frozenset[str]], ...] = ()

    def weight(self, table: Table, column: Column | None = None) -> float:
        """How strongly a table, or one of its columns, is named."""
        key = table.name if column is None else f"{table.name}.{column.name}"
        return self.weights.get(key.lower(), 0.0)


_SPELT = {"num": "number", "nr": "number", "avg": "average", "max": "maximum", "min": "minimum"}
_GRAMMAR_WORDS = frozenset(
    stem(word) for word in STOP_WORDS - {"name", "names", "id", "ids", "number", "total", "amount", "count"}
)


def spoken(text: str) -> list[str]:
    """Stems of a name as people say it: abbreviations written out, words of mere grammar left out."""
    words = [stem(_SPELT.get(word, word)) for word in name_words(text)]
    return [word for word in words if word not in _GRAMMAR_WORDS] or words


def read_cues(question: str, schema: SchemaView, hits: Sequence[ValueHit]) -> Cues:
    """The cues of a question."""
    text = " ".join(question.lower().split())
    bare = _AT_LEAST_MOST.sub(" ", text)
    sort = bool(_SORT.search(text))
    down = bool(_HIGH_TO_LOW.search(text)) or (bool(_DOWN.search(bare)) and not _LOW_TO_HIGH.search(text))
    up = bool(_LOW_TO_HIGH.search(text)) or (bool(_UP.search(bare)) and not _HIGH_TO_LOW.search(text))
    found = sorted(
        (match.start(), name) for name, pattern in _AGGREGATES.items() if (match := pattern.search(text))
    )
    # "from the oldest to the youngest" sorts, and asks for no maximum.
    figures = tuple(name for _, name in found if name in ("avg", "sum") or _NOUN[name].search(text))
    aggregates = figures if sort or figures else tuple(name for _, name in found)
    than = _THAN_AVERAGE.search(text)
    if than and len(_AGGREGATES["avg"].findall(text)) == 1:
        aggregates = tuple(name for name in aggregates if name != "avg")
        figures = tuple(name for name in figures if name != "avg")
    count = bool(_COUNT.search(text))
    return Cues(
        words=tuple(stems(text)),
        head=_head(text),
        count=count,
        aggregates=aggregates,
        sort=sort,
        descending=down,
        ascending=up,
        extreme=(down or up) and not sort,
        superlative=(down or up) and not sort and not figures,
        common=bool(_COMMON.search(text)),
        # "the name of each teacher" lists teachers; only a figure per something groups them.
        group=bool(_GROUP.search(text)) and (count or bool(aggregates)),
        both=bool(_BOTH.search(text)),
        distinct=bool(_DISTINCT.search(text)),
        absence=bool(_ABSENCE.search(text)),
        negation=bool(_NEGATION.search(text)),
        either=bool(_EITHER.search(text)),
        than_average=("<" if than[1].startswith(_BELOW) else ">") if than else "",
        patterns=_patterns(question),
        numbers=_numbers(text),
        weights=_weights(question, schema),
        values=_values(hits),
    )


def _head(text: str) -> int:
    """Words before the first condition; the words that open a question do not end its head."""
    opening = _OPENING.match(text)
    start = opening.end() if opening else 0
    marker = _MARKER.search(text, start)
    end = marker.start() if marker else len(text)
    return len(stems(text[: max(end, start)]))


def _patterns(question: str) -> tuple[Pattern, ...]:
    text = question.lower()
    if _STARTS.search(text):
        form = "{}%"
    elif _ENDS.search(text):
        form = "%{}"
    elif _CONTAINS.search(text):
        form = "%{}%"
    else:
        return ()
    return tuple(
        Pattern(form.format(next(filter(None, match.groups()))), len(stems(question[: match.start()])))
        for match in _QUOTED.finditer(question)
    )


def question_numbers(text: str) -> tuple[str, ...]:
    """Numbers a question spells in digits, or in words up to ten."""
    return tuple(dict.fromkeys(number.text for number in _numbers(text.lower())))


def _numbers(text: str) -> tuple[Number, ...]:
    found = []
    for match in _NUMBER.finditer(text):
        left, right = text[: match.start()], text[match.end() :]
        operator = next((sign for sign, pattern in _RIGHT if pattern.search(right)), "")
        operator = operator or next((sign for sign, pattern in _LEFT if pattern.search(left)), "")
        if match[1] == "one" and not operator:
            continue
        if match[1] in _TIMES and not operator:
            continue
        digits = _TIMES.get(match[1]) or _NUMBER_WORDS.get(match[1], match[1])
        following = (*(("time",) if match[1] in _TIMES else ()), *stems(right)[:4])
        found.append(Number(digits, len(stems(left)), operator or "=", bool(_CUT.search(left)), following))
    return tuple(found)


def _values(hits: Sequence[ValueHit]) -> tuple[tuple[float, frozenset[str]], ...]:
    holders: dict[str, set[str]] = {}
    scores: dict[str, float] = {}
    for hit in hits:
        name = hit.value.lower() if hit.score >= 1.0 else hit.keyword.lower()
        holders.setdefault(name, set()).add(hit.table.lower())
        scores[name] = max(scores.get(name, 0.0), hit.score)
    return tuple((scores[name], frozenset(tables)) for name, tables in holders.items())


def meant(question: str, schema: SchemaView, hits: Sequence[ValueHit]) -> tuple[ValueHit, ...]:
    """Hits that speak of values: not those whose phrase names a table or a column, or is a word spelt alike.

    A phrase that the question quotes, or writes with a capital inside a sentence, is always a value, unless
    it is only part of one ("contains 'Al'").
    """
    parts = {pattern.text.strip("%").lower() for pattern in _patterns(question)}
    names = {stem(word) for table in schema.tables for word in _all_words(table)}
    quoted = {part.lower() for match in _QUOTED.finditer(question) for part in match.groups() if part}
    kept = []
    for hit in hits:
        phrase = hit.keyword
        if phrase.lower() in parts:
            continue
        words = {stem(word) for word in name_words(phrase)} - {stem(word) for word in STOP_WORDS}
        capital = phrase[:1].isupper() and not question.startswith(phrase)
        sure = phrase.lower() in quoted or capital
        least = 0.8 if len(phrase) >= LONG else 0.9
        alike = hit.kind is MatchKind.EDIT and hit.score < least
        if sure or not (words <= names or alike):
            kept.append(hit)
    return tuple(kept)


def _all_words(table: Table) -> Iterable[str]:
    for text in (table.name, *table.synonyms, *(column.name for column in table.columns)):
        yield from name_words(text)


def _weights(question: str, schema: SchemaView) -> dict[str, float]:
    asked = stems(question)
    names = {table.name: table_words(table) for table in schema.tables}
    every = frozenset().union(*names.values())
    # By column name, the words of the tables that have it: "student" may well speak of `StuID`.
    own_words: dict[str, frozenset[str]] = {}
    for table, column in schema.columns():
        held = own_words.get(column.name.lower(), frozenset())
        own_words[column.name.lower()] = held | names[table.name]
    weights: dict[str, float] = {}
    for table in schema.tables:
        own = names[table.name]
        share = share_said(own, asked, table.name, every - own)
        # A table named in part (`singer_in_concert` for "singers") must not outdo the one named whole.
        weights[table.name.lower()] = share if share > 0.99 else 0.2 * share
        for column in table.columns:
            others = every - own_words[column.name.lower()]
            weights[f"{table.name}.{column.name}".lower()] = _column_weight(table, column, asked, others)
    return weights


def _column_weight(table: Table, column: Column, asked: Sequence[str], others: frozenset[str]) -> float:
    """How strongly a column is named, by its name or, a little less, by its description."""
    words = column_words(table, column)
    weight = share_said(words, asked, column.name, others)
    if words == table_words(table) and column.is_number:
        # The number in `flights.flight` is not meant whenever flights are; the text in `course.course` is.
        weight *= 0.4
    for text in (column.description, re.split(r"[,;:(.]", column.description)[0]):
        described = frozenset(stem(word) for word in content_words(text))
        if 0 < len(described) <= MOST_DESCRIBED:
            weight = max(weight, 0.9 * len(described & set(asked)) / len(described))
    return weight


def table_words(table: Table) -> frozenset[str]:
    """Stems by which a table is spoken of."""
    return frozenset(word for text in (table.name, *table.synonyms) for word in spoken(text))


def column_words(table: Table, column: Column) -> frozenset[str]:
    """Stems by which a column is spoken of; `singer_id` is no more about singers than its table is."""
    words = frozenset(word for text in (column.name, *column.synonyms) for word in spoken(text))
    return (words - table_words(table)) or words


def share_said(
    words: frozenset[str], asked: Sequence[str], name: str, others: frozenset[str] = frozenset()
) -> float:
    """The share of a name's words that the question says; 1 where it runs them together."""
    if any(_runs_together(name, asked[start:]) for start in range(len(asked))):
        return 1.0
    return len(said(words, asked, others)) / len(words) if words else 0.0


def said(words: frozenset[str], asked: Sequence[str], others: frozenset[str] = frozenset()) -> set[str]:
    """Those of the words that are said, or of which a longer one is said: `dep` by "departure".

    A longer word that names one of the `others`, tables elsewhere, is no such word, nor is a superlative:
    "airports" do not speak of the `air_time` of flights, and "longest" of no `lon`.
    """
    longer = [word for word in asked if word not in others and not word.endswith("est")]
    return {
        word
        for word in words
        if word in asked
        or (len(word) >= 3 and any(o.startswith(word) and len(o) >= len(word) + 4 for o in longer))
    }


def _runs_together(name: str, asked: Sequence[str]) -> bool:
    """Whether the next words of the question spell a name such as `Highschooler`."""
    whole, spelt = "".join(stem(word) for word in name_words(name)), ""
    for word in asked[:4]:
        spelt += word
        if spelt == whole and len(whole) >= 5:
            return True
    return False


def words_of(table: Table, column: Column, weight: float) -> frozenset[str]:
    """Words by which a column is spoken of; those of its description where its name is not said whole."""
    words = column_words(table, column)
    described = frozenset(stem(word) for word in content_words(column.description))
    return words if weight >= 0.99 or len(described) > MOST_DESCRIBED else words | described


def mentions(cues: Cues, name: str, words: frozenset[str]) -> tuple[int, ...]:
    """Positions at which the question speaks of a table or a column."""
    return tuple(
        number
        for number, word in enumerate(cues.words)
        if said(words, (word,)) or _runs_together(name, cues.words[number:])
    )
