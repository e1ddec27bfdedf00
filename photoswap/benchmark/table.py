"""The results as tables, in Markdown and in HTML: the gates, the scores, the differences, the paper's question."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from photoswap.benchmark.entries import BASELINES
from photoswap.benchmark.facts import way_name
from photoswap.benchmark.gates import Gate
from photoswap.benchmark.intervals import Interval
from photoswap.benchmark.judge import SCORE_KINDS
from photoswap.benchmark.plan import RunPlan
from photoswap.benchmark.results import Results, answer, reference_entry, table_one

TableRows = list[list[str]]  # the first holds the heads
ReportPart = tuple[str, str | TableRows]  # a heading, and a text or a table under it
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:90em;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:.3em .7em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def parts_of(plan: RunPlan, results: Results, carried: Results, gates: Sequence[Gate], facts: Any) -> list[ReportPart]:
    """Everything that is to be said, in order. carried: the same against the autoencoder's pictures."""
    where = f"{plan.tasks} tasks of kind {plan.kind}, split {plan.split}, guidance {plan.guidance_scale:g}"
    found: list[ReportPart] = [("Gates", "\n".join(gate.sentence for gate in gates))]
    found.append((f"Scores: {where}", scores_table(results)))
    found.append(("The same against the autoencoder's own pictures", scores_table(carried)))
    if (other := reference_entry(results)) is not None and len(results.plan.entries) > 1:
        found.append((f"Paired differences from {results.label(other)}", differences_table(results)))
    if len({entry.inversion for entry in plan.entries} - {"none"}) > 1:
        found.append(("Inversions", inversions_table(plan, facts)))
    for name, duels in table_one(results):
        rows = [["", "difference, dB", "tasks won", "tasks lost", ""]]
        rows += [[d.aspect, _signed(d.difference, ".2f"), str(d.won), str(d.lost), d.verdict] for d in duels]
        found += [(f"The paper's Table 1: {name}", rows), ("The answer", answer(duels, plan.split))]
    for label, why in results.refused.items():
        found.append((f"Not run: {label}", why))
    return found


def scores_table(results: Results) -> TableRows:
    """A row for each entry: every score with its interval, seconds, rows of the network."""
    names = results.names
    rows = [["", *(SCORE_KINDS[name].label for name in names), "seconds", "rows"]]
    for entry in results.shown:
        own = entry.method not in BASELINES
        costs = (
            [f"{results.cost(entry, 'seconds'):.1f}", f"{results.cost(entry, 'row_calls'):.0f}"] if own else ["", ""]
        )
        rows.append(
            [
                results.label(entry),
                *(_told(results.mean(entry, name), SCORE_KINDS[name].form) for name in names),
                *costs,
            ]
        )
    return rows


def differences_table(results: Results) -> TableRows:
    """How far every entry is above the one compared with; bold where the interval leaves zero out."""
    names, other = results.names, reference_entry(results)
    rows = [["", *(SCORE_KINDS[name].label for name in names)]]
    for entry in results.shown:
        if entry != other and other is not None:
            told = [_signed(results.difference(entry, other, name), SCORE_KINDS[name].form) for name in names]
            rows.append([results.label(entry), *told])
    return rows


def inversions_table(plan: RunPlan, facts: Iterable[Mapping[str, Any]]) -> TableRows:
    """How near each inversion leads back, PSNR in dB, means over the tasks."""
    heads = ("returned to the source", "alone to the source", "returned", "alone", "seconds")
    rows = [
        [
            "",
            "to the source, as a swap returns",
            "by its noise alone",
            "to the autoencoder's",
            "by its noise alone",
            "seconds",
        ]
    ]
    facts = list(facts)
    everywhere = np.mean([one["autoencoder"]["source"] for one in facts])
    rows.append(["the autoencoder alone", f"{everywhere:.1f}", f"{everywhere:.1f}", "", "", ""])
    ways = {
        (entry.inversion, way_name(entry, plan))
        for entry in plan.entries
        if "none" not in (entry.inversion, entry.concept)
    }
    for inversion, name in sorted(ways):
        told = [one["inversions"][name] for one in facts]
        rows.append([inversion, *(f"{np.mean([one[head] for one in told]):.1f}" for head in heads)])
    return rows


def as_markdown(parts: Sequence[ReportPart]) -> str:
    """The parts as Markdown."""
    said = []
    for heading, content in parts:
        said.append(f"## {heading}")
        if isinstance(content, str):
            said.append("\n".join(f"{line}  " for line in content.splitlines()).rstrip())
        else:
            lines = ["| " + " | ".join(row) + " |" for row in content]
            said.append("\n".join([lines[0], "|---" * len(content[0]) + "|", *lines[1:]]))
    return "\n\n".join(said) + "\n"


def as_html(parts: Sequence[ReportPart], picture: str) -> str:
    """The parts as a page, with a picture at its end."""
    said = [f"<!doctype html><meta charset=utf-8><title>photoswap evaluate</title><style>{STYLE}</style>"]
    for heading, content in parts:
        said.append(f"<h2>{escape(heading)}</h2>")
        if isinstance(content, str):
            said += [f"<p>{escape(line)}</p>" for line in content.splitlines()]
        else:
            cells = [[_bold(escape(text)) for text in row] for row in content]
            head = "".join(f"<th>{text}</th>" for text in cells[0])
            body = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in cells[1:])
            said.append(f"<table><tr>{head}</tr>{body}</table>")
    return "\n".join([*said, f'<h2>Pictures</h2><img src="{escape(picture)}" alt="results">']) + "\n"


def _bold(text: str) -> str:
    return f"<b>{text[2:-2]}</b>" if text.startswith("**") else text


def _told(interval: Interval, form: str) -> str:
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _signed(interval: Interval, form: str) -> str:
    said = f"{interval.mean:+{form}} [{interval.low:+{form}}, {interval.high:+{form}}]"
    return f"**{said}**" if interval.is_told else said
