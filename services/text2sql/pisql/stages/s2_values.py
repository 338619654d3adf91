"""S2: which stored values does the question mean?

Offline, distinct text values of every column are indexed by MinHash signatures over character
3-grams (signature size 100). Online, each keyword is looked up; candidates pass a Jaccard, an edit and
(when embeddings can be compared) an embedding threshold, and per keyword only those within 90 % of the best
stay. The thresholds are CHESS's; without embeddings a closer spelling is asked for instead.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.text2sql.pisql import parsing, prompts
from services.text2sql.pisql.configuration import Role, Share, ValueSettings
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import BadOutputError
from services.text2sql.pisql.objects import MatchKind, Question, SchemaView, ValueHit
from services.text2sql.pisql.ports import Similarity
from services.text2sql.pisql.words import STOP_WORDS

_QUOTED = re.compile(r"\"([^\"]{1,80})\"|'([^']{1,80})'|“([^”]{1,80})”")
_TOKEN = re.compile(r"[\w][\w.\-/&']*", re.UNICODE)
_IDENTIFIER = re.compile(r"^[0-9a-fA-F-]{16,}$|^\d+$")
_SHORTLIST = 64
_COMPARED = 8
CLOSE_SPELLING = 0.75
_SCANNED_VALUES = 20_000
DEFAULTS = ValueSettings()


@dataclass(frozen=True, slots=True)
class IndexedValue:
    """One distinct value of one column."""

    table: str
    column: str
    value: str


def three_grams(text: str) -> set[str]:
    """Character 3-grams of the lowered text, padded so that short texts have some."""
    padded = f"  {text.lower()} "
    return {padded[index : index + 3] for index in range(len(padded) - 2)}


class MinHasher:
    """MinHash signatures of sets of 3-grams: `size` multiply-shift hashes of a 32-bit base hash."""

    def __init__(self, size: int = 100, seed: int = 7) -> None:
        generator = np.random.default_rng(seed)
        self.size = size
        top = np.iinfo(np.uint64).max
        self._factors = generator.integers(0, top, size=size, dtype=np.uint64) | np.uint64(1)
        self._offsets = generator.integers(0, top, size=size, dtype=np.uint64)

    def signature(self, text: str) -> NDArray[np.uint32]:
        """The signature of a text, shape (size,)."""
        grams = np.array([_hash(gram) for gram in three_grams(text)], dtype=np.uint64)
        # Multiply-shift: the high half of a * x + b modulo 2**64, a odd (Dietzfelbinger et al.).
        table = (self._factors[:, None] * grams[None, :] + self._offsets[:, None]) >> np.uint64(32)
        least: NDArray[np.uint32] = table.min(axis=1).astype(np.uint32)
        return least


def _hash(gram: str) -> int:
    """FNV-1a over the code points: stable across processes, unlike hash()."""
    value = 2_166_136_261
    for character in gram:
        value = ((value ^ ord(character)) * 16_777_619) & 0xFFFFFFFF
    return value


class ValueIndex:
    """MinHash index of a database's text values.

    A small index is scanned; above 20,000 values every position of the signatures keeps its own
    sorted order, so a look-up costs two binary searches a position.
    """

    def __init__(
        self,
        values: Sequence[IndexedValue],
        settings: ValueSettings,
        signatures: NDArray[np.uint32] | None = None,
    ) -> None:
        self._settings = settings
        self._values = list(values)
        self._hasher = MinHasher(settings.signature_size)
        self._exact: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self._values):
            self._exact[item.value.strip().lower()].append(number)
        if signatures is None:
            signatures = np.empty((len(self._values), settings.signature_size), dtype=np.uint32)
            for number, item in enumerate(self._values):
                signatures[number] = self._hasher.signature(item.value)
        self._signatures = signatures
        if len(self._values) <= _SCANNED_VALUES:
            return
        self._order = np.argsort(signatures, axis=0, kind="stable").astype(np.int32)
        self._sorted = np.take_along_axis(signatures, self._order, axis=0)

    def __len__(self) -> int:
        return len(self._values)

    @classmethod
    def build(
        cls, columns: Mapping[tuple[str, str], Iterable[str]], settings: ValueSettings = DEFAULTS
    ) -> ValueIndex:
        """Index distinct values by (table, column); long texts and pure identifiers are left out."""
        kept = []
        for (table, column), values in columns.items():
            distinct = dict.fromkeys(
                value
                for value in values
                if value.strip() and len(value) <= settings.longest_value and not _IDENTIFIER.match(value)
            )
            kept += [IndexedValue(table, column, value) for value in list(distinct)[: settings.column_cap]]
        return cls(kept, settings)

    def dump(self) -> bytes:
        """The index as bytes, for `load`."""
        buffer = io.BytesIO()
        texts = json.dumps([[item.table, item.column, item.value] for item in self._values])
        np.savez_compressed(
            buffer, values=np.frombuffer(texts.encode(), dtype=np.uint8), signatures=self._signatures
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, content: bytes, settings: ValueSettings = DEFAULTS) -> ValueIndex:
        """An index that was dumped with the same signature size."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            values = [IndexedValue(*item) for item in json.loads(stored["values"].tobytes())]
            return cls(values, settings, stored["signatures"])

    def similar(self, keyword: str) -> list[tuple[int, float]]:
        """(value number, estimated Jaccard) above the threshold, best first, at most 64."""
        if not self._values:
            return []
        wanted = self._hasher.signature(keyword)
        if len(self._values) <= _SCANNED_VALUES:
            counts = (self._signatures == wanted).sum(axis=1)
            numbers = np.flatnonzero(counts).astype(np.int32)
            counts = counts[numbers]
        else:
            numbers, counts = self._looked_up(wanted)
        shares = counts / self._settings.signature_size
        kept = shares >= self._settings.jaccard_threshold
        numbers, shares = numbers[kept], shares[kept]
        best = np.lexsort((numbers, -shares))[:_SHORTLIST]
        return [(int(numbers[index]), float(shares[index])) for index in best]

    def _looked_up(self, wanted: NDArray[np.uint32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Numbers of the values that agree with a signature somewhere, and in how many positions."""
        agreeing = [np.empty(0, dtype=np.int32)]
        for position in range(self._settings.signature_size):
            column = self._sorted[:, position]
            low = int(np.searchsorted(column, wanted[position], side="left"))
            high = int(np.searchsorted(column, wanted[position], side="right"))
            agreeing.append(self._order[low:high, position])
        numbers, counts = np.unique(np.concatenate(agreeing), return_counts=True)
        return numbers, counts.astype(np.int64)

    def exact(self, keyword: str) -> list[int]:
        """Numbers of the values equal to the keyword, letter case and outer blanks ignored."""
        return self._exact.get(keyword.strip().lower(), [])

    def value(self, number: int) -> IndexedValue:
        """The value of a number."""
        return self._values[number]

    def within(self, schema: SchemaView, hit: IndexedValue) -> bool:
        """Whether the view shows the hit's column unmasked."""
        table = schema.table(hit.table)
        column = table.column(hit.column) if table else None
        return column is not None and not column.sensitive


def heuristic_keywords(text: str) -> tuple[str, ...]:
    """Phrases worth looking up, without a model: quoted strings, capitalised runs, word n-grams."""
    found: dict[str, None] = {}
    for match in _QUOTED.finditer(text):
        found[next(group for group in match.groups() if group)] = None
    tokens = [token.strip("'.") for token in _TOKEN.findall(text)]
    tokens = [token for token in tokens if token]
    run: list[str] = []
    for position, token in enumerate([*tokens, ""]):
        if token[:1].isupper() and not (position == 0 and token.lower() in STOP_WORDS):
            run.append(token)
            continue
        if run:
            found[" ".join(run)] = None
        run = []
    for size in (3, 2, 1):
        for start in range(len(tokens) - size + 1):
            words = tokens[start : start + size]
            edges = (words[0].lower(), words[-1].lower())
            if any(edge in STOP_WORDS for edge in edges) or all(word.isdigit() for word in words):
                continue
            found[" ".join(words)] = None
    return tuple(found)


def _read_keywords(text: str) -> tuple[str, ...]:
    value = parsing.json_value(text)
    if not isinstance(value, list):
        raise BadOutputError("answer with a JSON list of phrases")
    phrases = [item.get("phrase", "") if isinstance(item, dict) else item for item in value]
    return tuple(str(phrase) for phrase in phrases if phrase)[:30]


async def keywords(question: Question, context: StageContext) -> tuple[str, ...]:
    """Keywords by the model when configured, always joined with the heuristic ones."""
    phrases = heuristic_keywords(f"{question.text} {question.evidence}".strip())
    if not context.configuration.keyword_model:
        return phrases
    found = await context.ask(Share.ADMIT, Role.KEYWORDS, prompts.keyword_finder(question), _read_keywords)
    return tuple(dict.fromkeys([*(found or ()), *phrases]))


def retrieve(
    phrases: Sequence[str], index: ValueIndex, schema: SchemaView, settings: ValueSettings
) -> tuple[ValueHit, ...]:
    """At most `per_column` hits a column and `total` in all, best first, by spelling alone.

    Nothing weeds out texts that merely share letters, so hits by edit distance must be close.
    """
    near = near_hits(phrases, index, schema, settings)
    return _best([_close(hits) for hits in near], settings)


async def retrieve_by_meaning(
    phrases: Sequence[str],
    index: ValueIndex,
    schema: SchemaView,
    settings: ValueSettings,
    similarity: Similarity,
) -> tuple[ValueHit, ...]:
    """As `retrieve`, but hits by edit distance stay when their meaning is near, however they are spelt.

    Raises `ModelUnavailableError`.
    """
    near = near_hits(phrases, index, schema, settings)
    compared = [hit for hits in near for hit in hits if hit.kind is MatchKind.EDIT]
    cosines = await similarity.compare([(hit.keyword, hit.value) for hit in compared]) if compared else ()
    meant = {
        id(hit)
        for hit, cosine in zip(compared, cosines, strict=True)
        if cosine >= settings.embedding_threshold
    }
    kept = [[hit for hit in hits if hit.kind is not MatchKind.EDIT or id(hit) in meant] for hits in near]
    return _best(kept, settings)


def near_hits(
    phrases: Sequence[str], index: ValueIndex, schema: SchemaView, settings: ValueSettings
) -> list[list[ValueHit]]:
    """For every phrase the stored values it may mean, as far as the view shows them."""
    return [
        [
            hit
            for hit in _hits(phrase, index, settings)
            if index.within(schema, IndexedValue(hit.table, hit.column, hit.value))
        ]
        for phrase in phrases
    ]


def _close(hits: Sequence[ValueHit]) -> list[ValueHit]:
    return [hit for hit in hits if hit.kind is not MatchKind.EDIT or hit.score >= CLOSE_SPELLING]


def _best(found: Sequence[Sequence[ValueHit]], settings: ValueSettings) -> tuple[ValueHit, ...]:
    """Per phrase those within a share of the best, then the best per column and in all."""
    best: dict[tuple[str, str, str], ValueHit] = {}
    for hits in found:
        top = max((hit.score for hit in hits), default=0.0)
        for hit in hits:
            key = (hit.table, hit.column, hit.value)
            if hit.score >= settings.keep_within * top and (key not in best or hit.score > best[key].score):
                best[key] = hit
    ranked = sorted(
        best.values(), key=lambda hit: (-hit.score, -len(hit.keyword), hit.table, hit.column, hit.value)
    )
    per_column: dict[tuple[str, str], int] = defaultdict(int)
    kept: list[ValueHit] = []
    for hit in ranked:
        place = (hit.table, hit.column)
        if per_column[place] < settings.per_column and len(kept) < settings.total:
            per_column[place] += 1
            kept.append(hit)
    return tuple(kept)


def _hits(phrase: str, index: ValueIndex, settings: ValueSettings) -> list[ValueHit]:
    """Values equal to a phrase, or else those that hold it, lie in it or are spelt like it."""
    hits = [_hit(phrase, index.value(number), 1.0, MatchKind.EXACT) for number in index.exact(phrase)]
    if hits or len(phrase) < 3:
        return hits
    lowered = phrase.lower()
    near, alike = [], []
    for number, _jaccard in index.similar(phrase):
        item = index.value(number)
        value = item.value.lower()
        if re.search(rf"\b{re.escape(lowered)}\b", value) or (
            len(value) > 3 and re.search(rf"\b{re.escape(value)}\b", lowered)
        ):
            shorter, longer = sorted((len(value), len(lowered)))
            near.append(_hit(phrase, item, 0.7 + 0.3 * shorter / longer, MatchKind.SUBSTRING))
            continue
        ratio = difflib.SequenceMatcher(None, lowered, value).ratio()
        if ratio >= settings.edit_threshold:
            alike.append(_hit(phrase, item, ratio, MatchKind.EDIT))
    # Each of these costs an embedding: only the nearest are worth one.
    alike.sort(key=lambda hit: (-hit.score, hit.table, hit.column, hit.value))
    return near + alike[:_COMPARED]


def _hit(phrase: str, item: IndexedValue, score: float, kind: MatchKind) -> ValueHit:
    return ValueHit(phrase, item.table, item.column, item.value, round(score, 6), kind)
