"""A report as a few lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdatasets.report.wording import count, items, number, seconds, several, share, size

if TYPE_CHECKING:
    from mmdatasets.report.data import ReportData

KINDS = {
    "chats": "row",
    "packed": "packed row",
    "answers": "row",
    "pairs": "pair",
}
"""What one row of each kind is called."""

_SHOWN = 3


def summarise(data: ReportData) -> str:
    """The report in some twenty lines."""
    lines = [
        _line("dataset", data["title"]),
        _line("rows", several(data["rows"], KINDS[data["kind"]])),
        _line("tokens", _tokens(data)),
    ]
    if data["lengths"] is not None:
        found = data["lengths"]
        numbers = [("median", found["median"]), ("90%", found["p90"]), ("99%", found["p99"]), ("most", found["max"])]
        lines.append(_line("length", ", ".join(f"{name} {count(value)}" for name, value in numbers)))
    for modality, facts in data["media"].items():
        lines.append(_line(modality, f"{items(facts['items'], modality)}, {count(facts['tokens'])} tokens"))
    for column, files in data["files"].items():
        if files["sizes"] is not None:
            said = f"median {size(files['sizes']['median'])}, most {size(files['sizes']['max'])}"
            lines.append(_line("files", f"{column}: {said}{_sized(files['sized'], files['references'])}"))
    lines += _simulated(data)
    for one in data["outcomes"]:
        lines.append(_line(one["outcome"], f"{several(one['rows'], 'row')} ({one['reason']})"))
    for item in data["slowest"][:_SHOWN]:
        took = item["error"] if item["seconds"] is None else f"{seconds(item['seconds'])} to decode"
        lines.append(_line("slow", f"row {item['row']}, {item['source']}: {took}"))
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"{name:10} {text}"


def _tokens(data: ReportData) -> str:
    tokens, media, trained = data["tokens"], data["media_tokens"], data["trained_tokens"]
    of_media = f", {share(media / tokens)} of them for media" if tokens else ""
    return f"{count(tokens)}{of_media}; {count(trained)} are trained"


def _sized(sized: int, references: int) -> str:
    return "" if sized == references else f" ({count(sized)} of {count(references)} looked at)"


def _simulated(data: ReportData) -> list[str]:
    lines = []
    if data["suggestion"] is not None:
        one = data["suggestion"]
        lines.append(_line("suggested", f"max_length={one['max_length']}: {one['reason']}"))
    if data["padding"]:
        parts = [f"{share(one['random'])} ({one['batch_size']} rows)" for one in data["padding"]]
        lines.append(_line("padding", f"{', '.join(parts)} of a batch in random order"))
    if data["packing"]:
        parts = [f"{number(round(100 * one['best_fit'], 1))}% ({one['max_length']})" for one in data["packing"]]
        without = "; longer rows are left out" if any(one["rows_too_long"] for one in data["packing"]) else ""
        lines.append(_line("packing", f"packed rows are full to {', '.join(parts)}{without}"))
    return lines
