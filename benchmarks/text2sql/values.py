"""Does comparing stored values by meaning find more of those a question means than spelling alone?

`python -m benchmarks.text2sql.values [--every 3]`

Over both bundles: of the text literals that gold compares with a column, how many does value retrieval find
(recall), how many hits does it give in all, and how long does it take. Meaning is the packaged sentence
encoder's, in this process, at the thresholds of CHESS.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlglot import exp

from benchmarks.text2sql.common import data_folder, write_json
from services.model.encoder.encoder import EncoderFiles, SentenceEncoder
from services.model.engines.encoder import packaged_encoder
from services.text2sql.evaluation.datasets import Dataset, Item, defog_sql_eval, spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.pisql import sql_text
from services.text2sql.pisql.configuration import ValueSettings
from services.text2sql.pisql.objects import ValueHit
from services.text2sql.pisql.pipeline import Knowledge
from services.text2sql.pisql.stages import s2_values

SETTINGS = ValueSettings()


class EncoderSimilarity:
    """Cosines of the packaged encoder's vectors; every text is embedded anew for each question."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self.texts = 0

    async def compare(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """The cosine of each pair."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        self.texts += len(texts)
        vectors, _ = self._encoder.encode(texts)
        places = {text: number for number, text in enumerate(texts)}
        return [float(vectors[places[a]] @ vectors[places[b]]) for a, b in pairs]


def wanted(item: Item, dialect: str = "sqlite") -> set[str]:
    """Text literals that gold compares with a column, lowered."""
    found = set()
    for node in sql_text.parse(item.gold[0], dialect).find_all(exp.EQ, exp.In):
        if isinstance(node.this, exp.Column):
            found |= {one.this.lower() for one in node.find_all(exp.Literal) if one.is_string}
    return found


async def measure(
    environment: Environment, items: Sequence[Item], encoder: SentenceEncoder
) -> list[list[float]]:
    """For spelling and for meaning: [literals found, hits, seconds, texts embedded]; then all literals."""
    similarity = EncoderSimilarity(encoder)
    spelt, meant, literals = [0.0] * 4, [0.0] * 4, 0
    for item in items:
        known: Knowledge = environment.knowledge(item.database)
        assert known.values is not None
        gold = wanted(item)
        literals += len(gold)
        phrases = s2_values.heuristic_keywords(f"{item.question} {item.evidence}".strip())
        where = (phrases, known.values, known.schema, SETTINGS)
        started = time.perf_counter()
        _count(spelt, s2_values.retrieve(*where), gold, started)
        started, before = time.perf_counter(), similarity.texts
        _count(meant, await s2_values.retrieve_by_meaning(*where, similarity), gold, started)
        meant[3] += similarity.texts - before
    return [spelt, meant, [float(literals)]]


def _count(totals: list[float], hits: Sequence[ValueHit], gold: set[str], started: float) -> None:
    totals[2] += time.perf_counter() - started
    totals[0] += len(gold & {hit.value.lower() for hit in hits})
    totals[1] += len(hits)


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--every", type=int, default=3, help="take every n-th question that has a gold")
    arguments = parser.parse_args()
    sets: list[Dataset] = [
        spider_dev(data_folder() / "spider-dev"),
        defog_sql_eval(data_folder() / "defog-sql-eval", unanswerable=False),
    ]
    results = {}
    print("| bundle | by | literals found | hits a question | ms a question | texts embedded a question |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as cache:
        encoder = SentenceEncoder(EncoderFiles(packaged_encoder()), Path(cache), threads=1)
        for dataset in sets:
            items = dataset.items[:: arguments.every]
            with Environment(dataset) as environment:
                spelt, meant, (literals,) = asyncio.run(measure(environment, items, encoder))
            for name, (found, hits, seconds, texts) in (("spelling", spelt), ("meaning", meant)):
                size = len(items)
                print(
                    f"| {dataset.name} | {name} | {found:.0f} of {literals:.0f} | {hits / size:.1f} | "
                    f"{1_000 * seconds / size:.1f} | {texts / size:.0f} |"
                )
                results[f"{dataset.name} {name}"] = [
                    found,
                    literals,
                    hits / size,
                    seconds / size,
                    texts / size,
                ]
    write_json("values", results)


if __name__ == "__main__":
    main()
