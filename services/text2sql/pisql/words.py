"""Words: splitting names and questions, a light English stemmer, BM25 and cosine similarity.

One place for the lexical measures that linking, value retrieval, example retrieval and S0 share.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "above",
        "after",
        "again",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "before",
        "being",
        "below",
        "between",
        "both",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "doing",
        "down",
        "during",
        "each",
        "every",
        "few",
        "find",
        "for",
        "from",
        "further",
        "get",
        "give",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "just",
        "list",
        "many",
        "me",
        "more",
        "most",
        "much",
        "my",
        "no",
        "nor",
        "not",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "ours",
        "out",
        "over",
        "own",
        "please",
        "question",
        "return",
        "same",
        "she",
        "should",
        "show",
        "so",
        "some",
        "such",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "theirs",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "us",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "yours",
        "number",
        "name",
        "names",
        "different",
        "distinct",
        "ids",
        "id",
        "s",
        "t",
        "don",
        "display",
        "count",
        "total",
        "amount",
        "does",
        "there're",
        "whats",
    ]
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+", re.UNICODE)


def name_words(text: str) -> list[str]:
    """Lower-case words of a name or a phrase: snake_case, camelCase and prose alike."""
    return [word.lower() for word in _WORD.findall(_CAMEL.sub(" ", text).replace("_", " "))]


def content_words(text: str) -> list[str]:
    """Words of a question that carry meaning."""
    return [word for word in name_words(text) if word not in STOP_WORDS and len(word) > 1]


def stem(word: str) -> str:
    """A light English stem: plural and verb endings are dropped, nothing else."""
    for ending, kept in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + kept
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 4 else word


def stems(text: str) -> list[str]:
    """Stems of every word of a text."""
    return [stem(word) for word in name_words(text)]


class Bm25:
    """Okapi BM25 (k1 = 1.2, b = 0.75) over a fixed set of documents given as lists of terms."""

    def __init__(self, documents: Sequence[Sequence[str]], k1: float = 1.2, b: float = 0.75) -> None:
        self._counts = [Counter(document) for document in documents]
        lengths = [len(document) for document in documents]
        mean = sum(lengths) / len(lengths) if lengths else 1.0
        self._norms = [k1 * (1 - b + b * length / (mean or 1.0)) for length in lengths]
        self._k1 = k1
        frequency = Counter(term for counts in self._counts for term in counts)
        size = len(documents)
        self._idf = {
            term: math.log(1 + (size - found + 0.5) / (found + 0.5)) for term, found in frequency.items()
        }

    def scores(self, terms: Iterable[str]) -> list[float]:
        """The score of every document for a query."""
        wanted = [term for term in set(terms) if term in self._idf]
        return [
            sum(
                self._idf[term] * counts[term] * (self._k1 + 1) / (counts[term] + norm)
                for term in wanted
                if term in counts
            )
            for counts, norm in zip(self._counts, self._norms, strict=True)
        ]


def cosine(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    """Cosine of two sparse vectors, 0 when one is empty."""
    if not left or not right:
        return 0.0
    product = sum(weight * right[term] for term, weight in left.items() if term in right)
    norm = math.sqrt(sum(v * v for v in left.values()) * sum(v * v for v in right.values()))
    return product / norm if norm else 0.0
