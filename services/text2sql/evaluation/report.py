"""Records as a report: summary figures, Markdown tables, plots, paired significance."""

from __future__ import annotations

import dataclasses
import io
import statistics
from collections.abc import Container, Mapping, Sequence
from typing import Any

from services.text2sql.evaluation import metrics
from services.text2sql.evaluation.harness import Record
from services.text2sql.evaluation.significance import compare

COLUMNS: tuple[tuple[str, str], ...] = (
    ("questions", "questions"),
    ("ex_set", "EX (set)"),
    ("ex_bag", "EX (bag)"),
    ("soft_f1", "Soft F1"),
    ("oracle_ex", "oracle EX"),
    ("verified_rate", "verified"),
    ("verified_precision", "precision of verified"),
    ("unverified_precision", "precision of the rest"),
    ("valid_sql", "valid SQL"),
    ("pivot_accuracy", "pivot accuracy"),
    ("reference_accuracy", "reference accuracy"),
    ("calls", "calls"),
    ("tokens", "tokens"),
    ("seconds", "s/question"),
)


def summarise(records: Sequence[Record]) -> dict[str, float]:
    """Figures over one configuration's records. EX counts answerable questions only.

    Percentages are 0..100; `overhead_p50_ms` is wall time without model calls.
    """
    asked = [record for record in records if record.answerable]
    ran = [record for record in asked if record.verdict != "refused"]
    verified = [record for record in asked if record.verdict == "verified"]
    rest = [record for record in asked if record.verdict in ("majority", "unverified")]
    pivots = sum(record.pivot_runs for record in asked)
    references = [record.reference_right for record in asked if record.reference_right is not None]
    refusal = metrics.precision_recall(
        [record.verdict == "refused" for record in records],
        [not record.answerable for record in records],
    )
    figures = {
        "questions": float(len(asked)),
        "ex_set": metrics.percentage([record.ex_set for record in asked]),
        "ex_bag": metrics.percentage([record.ex_bag for record in asked]),
        "soft_f1": metrics.percentage([record.soft_f1 for record in asked]),
        "oracle_ex": metrics.percentage([record.oracle for record in asked]),
        "valid_sql": metrics.percentage([record.ran for record in ran]),
        "verified_rate": metrics.percentage([record.verdict == "verified" for record in asked]),
        "verified_precision": metrics.percentage([record.ex_set for record in verified]),
        "unverified_precision": metrics.percentage([record.ex_set for record in rest]),
        "pivot_accuracy": 100 * sum(r.pivot_matches for r in asked) / pivots if pivots else 0.0,
        "program_success": 100 * pivots / max(1, sum(record.programs for record in asked)),
        "reference_accuracy": metrics.percentage(references),
        "refusal_precision": refusal[0],
        "refusal_recall": refusal[1],
        "calls": _mean([record.calls for record in asked]),
        "tokens": _mean([record.prompt_tokens + record.completion_tokens for record in asked]),
        "seconds": _mean([record.seconds for record in asked]),
        "overhead_p50_ms": statistics.median([r.overhead_ms for r in asked]) if asked else 0.0,
    }
    if any(record.tau_fair is not None for record in asked):
        figures["r_ves"] = metrics.r_ves([record.tau_official for record in asked])
        figures["r_ves_fair"] = metrics.r_ves([record.tau_fair for record in asked])
        figures["r_ves_gold"] = metrics.r_ves([record.tau_gold for record in asked if record.ex_set])
        figures["ves"] = _ves(asked)
    return figures


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _ves(records: Sequence[Record]) -> float:
    pairs = [(record.tau_fair, 1.0) if record.tau_fair else None for record in records]
    return metrics.ves(pairs)


def by_difficulty(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Summaries per difficulty label."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.difficulty or "all", []).append(record)
    return {name: summarise(members) for name, members in sorted(groups.items())}


def build(name: str, records: Mapping[str, Mapping[str, Record]], *, details: bool = True) -> dict[str, Any]:
    """The whole report as JSON: summaries, difficulties, paired comparisons with the first one."""
    report: dict[str, Any] = {"dataset": name, "configurations": {}, "comparisons": []}
    for configuration, found in records.items():
        listed = list(found.values())
        entry: dict[str, Any] = {
            "summary": summarise(listed),
            "difficulties": by_difficulty(listed),
        }
        if details:
            entry["records"] = [dataclasses.asdict(record) for record in listed]
        report["configurations"][configuration] = entry
    names = list(records)
    for other in names[1:]:
        shared = [key for key in records[names[0]] if key in records[other]]
        result = compare(
            [records[names[0]][key].ex_set for key in shared],
            [records[other][key].ex_set for key in shared],
        )
        report["comparisons"].append({"first": names[0], "second": other, **dataclasses.asdict(result)})
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown tables."""
    summaries = {name: entry["summary"] for name, entry in report["configurations"].items()}
    timed = any("r_ves" in summary for summary in summaries.values())
    columns = [item for item in COLUMNS if any(item[0] in summary for summary in summaries.values())]
    if timed:
        columns += [("r_ves", "R-VES"), ("r_ves_fair", "R-VES fair"), ("r_ves_gold", "R-VES gold/gold")]
    if any(summary["refusal_recall"] for summary in summaries.values()):
        columns += [("refusal_precision", "refusal precision"), ("refusal_recall", "refusal recall")]
    lines = [f"# {report['dataset']}", "", "| configuration | " + " | ".join(t for _, t in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for name, summary in summaries.items():
        cells = " | ".join(f"{summary.get(key, 0.0):.1f}" for key, _ in columns)
        lines.append(f"| {name} | {cells} |")
    if report["comparisons"]:
        lines += ["", "| against | EX difference | 95 % interval | McNemar p |", "|---|---:|---:|---:|"]
        for item in report["comparisons"]:
            lines.append(
                f"| {item['second']} - {item['first']} | {item['difference']:+.1f} | "
                f"{item['low']:+.1f} .. {item['high']:+.1f} | {item['p_value']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any]) -> bytes:
    """A PNG of EX, verified rate and precision per configuration."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(report["configurations"])
    summaries = [report["configurations"][name]["summary"] for name in names]
    figure = Figure(figsize=(max(5.0, 1.1 * len(names) + 2), 4.0), layout="constrained")
    axes = figure.add_subplot()
    shown = (("ex_set", "EX"), ("verified_rate", "verified"), ("verified_precision", "precision of verified"))
    for offset, (key, label) in enumerate(shown):
        places = [index + 0.27 * (offset - 1) for index in range(len(names))]
        axes.bar(places, [summary[key] for summary in summaries], width=0.25, label=label)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylim(0, 105)
    axes.set_ylabel("%")
    axes.set_title(str(report["dataset"]))
    axes.legend(fontsize="small")
    return _png(FigureCanvasAgg(figure))


Curve = Sequence[tuple[float, float]]


def plot_curves(
    panels: Mapping[str, Mapping[str, Curve]], *, x: str, y: str, dashed: Container[str] = ()
) -> bytes:
    """A PNG with a panel for each title, each of several named (x, y) curves, on one scale.

    A name has one colour in all panels; those in `dashed` are drawn so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure = Figure(figsize=(4.6 * columns, 4.0 * rows), layout="constrained")
    for place, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for name, points in curves.items():
            style = "--" if name in dashed else "-"
            colour = f"C{names.index(name) % 10}"
            axes.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=4, label=name)
        axes.set(xlabel=x, ylabel=y, title=title, ylim=(0, 103))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    return _png(FigureCanvasAgg(figure))


def _png(canvas: Any) -> bytes:
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()
