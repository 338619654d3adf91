"""Measures of text-to-SQL (section 6.1), on rows and times that were obtained elsewhere.

EX and R-VES follow the public BIRD scripts, including their flaws, which `fair_ratio` avoids: there the
prediction runs first in every pair, connection set-up is timed, and identical timings earn nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from services.text2sql.pisql.objects import Row
from services.text2sql.pisql.results import bags_equal

R_VES_CEILING = 100 * math.sqrt(1.25)


def execution_match_set(predicted: Sequence[Row], gold: Sequence[Row]) -> bool:
    """BIRD's rule: equal sets of rows; duplicates and row order ignored, column order not."""
    return set(predicted) == set(gold)


def execution_match_bag(predicted: Sequence[Row], gold: Sequence[Row]) -> bool:
    """Equal multisets of rows, numbers within tolerance."""
    return bags_equal(predicted, gold)


def percentage(values: Sequence[float | bool]) -> float:
    """100 times the mean; 0 of nothing."""
    return 100 * sum(values) / len(values) if values else 0.0


def soft_f1(predicted: Sequence[Row], gold: Sequence[Row]) -> float:
    """Soft F1 of one question: the i-th predicted against the i-th gold row, duplicates dropped.

    Per row: share of predicted cells found in the gold row, predicted-only and gold-only cells, each
    divided by the gold width; a row without partner counts as one whole miss. Both empty: 1.
    """
    if not predicted and not gold:
        return 1.0
    rows_predicted, rows_gold = list(dict.fromkeys(predicted)), list(dict.fromkeys(gold))
    matched = only_predicted = only_gold = 0.0
    for index, gold_row in enumerate(rows_gold):
        if index >= len(rows_predicted):
            only_gold += 1
            continue
        row = rows_predicted[index]
        width = len(gold_row) or 1
        found = sum(cell in gold_row for cell in row)
        matched += found / width
        only_predicted += (len(row) - found) / width
        only_gold += sum(cell not in row for cell in gold_row) / width
    only_predicted += max(0, len(rows_predicted) - len(rows_gold))
    precision = matched / (matched + only_predicted) if matched + only_predicted else 0.0
    recall = matched / (matched + only_gold) if matched + only_gold else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def ves(pairs: Sequence[tuple[float, float] | None]) -> float:
    """The old valid efficiency score of (gold seconds, predicted seconds); None for a mismatch."""
    total = sum(math.sqrt(gold / predicted) for pair in pairs if pair for gold, predicted in [pair])
    return 100 * total / len(pairs) if pairs else 0.0


def reward(tau: float) -> float:
    """R-VES's step function of the time ratio gold / predicted."""
    if tau >= 2:
        return 1.25
    if tau >= 1:
        return 1.0
    if tau >= 0.5:
        return 0.75
    if tau >= 0.25:
        return 0.5
    return 0.25 if tau > 0 else 0.0


def official_ratio(gold_seconds: Sequence[float], predicted_seconds: Sequence[float]) -> float:
    """tau of the public script: mean of the ratios strictly within 3 standard deviations.

    Identical ratios have no spread, leave nothing inside, and give 0, as in the script.
    """
    ratios = [g / p for g, p in zip(gold_seconds, predicted_seconds, strict=True)]
    mean, spread = statistics.fmean(ratios), statistics.pstdev(ratios)
    kept = [ratio for ratio in ratios if mean - 3 * spread < ratio < mean + 3 * spread]
    return statistics.fmean(kept) if kept else 0.0


def fair_ratio(gold_seconds: Sequence[float], predicted_seconds: Sequence[float]) -> float:
    """tau of the fair variant: the median ratio of runs in alternating order on warm connections."""
    return statistics.median(g / p for g, p in zip(gold_seconds, predicted_seconds, strict=True))


def r_ves(taus: Sequence[float | None]) -> float:
    """R-VES = (100/N) * sum of sqrt(R_i); None (mismatch, error, timeout) earns 0. Ceiling 111.8."""
    if not taus:
        return 0.0
    return 100 * sum(math.sqrt(reward(tau)) for tau in taus if tau is not None) / len(taus)


def time_official(gold: Callable[[], float], predicted: Callable[[], float], iterations: int) -> float:
    """Run pairs as the public script does (prediction first, connecting each time); tau.

    The callables run one query, connecting anew, and return seconds.
    """
    times: list[tuple[float, float]] = []
    for _ in range(iterations):
        spent = predicted()
        times.append((gold(), spent))
    return official_ratio([g for g, _ in times], [p for _, p in times])


def time_fair(gold: Callable[[], float], predicted: Callable[[], float], iterations: int) -> float:
    """Warm up once each, then alternate who goes first; tau is the median ratio."""
    gold()
    predicted()
    times: list[tuple[float, float]] = []
    for number in range(iterations):
        if number % 2:
            first = gold()
            times.append((first, predicted()))
        else:
            first = predicted()
            times.append((gold(), first))
    return fair_ratio([g for g, _ in times], [p for _, p in times])


def precision_recall(selected: Sequence[bool], relevant: Sequence[bool]) -> tuple[float, float]:
    """(precision, recall) in percent; 0 where nothing was selected or relevant."""
    both = sum(s and r for s, r in zip(selected, relevant, strict=True))
    chosen, wanted = sum(selected), sum(relevant)
    return (100 * both / chosen if chosen else 0.0, 100 * both / wanted if wanted else 0.0)
