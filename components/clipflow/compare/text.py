"""A comparison in the terminal: what differs, the means over tasks, and what to make of them."""

from __future__ import annotations

from collections.abc import Sequence

from clipflow.compare.differences import Metric, Value, differing, metrics, trouble
from clipflow.compare.groups import Cell, Gain, Groups
from clipflow.compare.sides import Side

DIGEST = 12
"""Characters shown of a digest or a commit."""
LEGEND = {
    "better": "surely better",
    "worse": "surely worse",
    "unclear": "can't be told",
    "unknown": "by points only",
}
"""What a verdict says. Surely: the 95 % interval of the gain leaves zero out."""


def sides(found: Sequence[Side]) -> str:
    """The table for two or more sides."""
    lines = []
    for number, side in enumerate(found):
        lines.append(f"{letter(number)}  {side.label}{f'  ({side.run_id})' if side.run_id else ''}")
    letters = [letter(number) for number in range(len(found))]
    for title, values in (
        ("params", differing([side.params for side in found])),
        ("lineage", differing([side.lineage for side in found])),
    ):
        if values:
            rows = [[name, *(short(name, value) for value in row)] for name, row in values.items()]
            lines += ["", *_table([[title, *letters], *rows])]
    if problem := trouble(found):
        lines += ["", f"WARNING  {problem}."]
    means = [metric for metric in metrics(found) if metric.is_mean]
    if means:
        rows = [
            [metric.name, *(_cell(metric, value) for value in metric.values)] for metric in means
        ]
        lines += ["", *_table([["metric, in %", *letters], *rows])]
    if not problem:
        lines += ["", f"In brackets the gain over A in points, with its 95 % interval where samples are"
                      f" known; {', '.join(f'{v}: {MARKS[k]}' for k, v in LEGEND.items())}."]  # fmt: skip
    return "\n".join(lines)


MARKS = {"better": "+", "worse": "-", "unclear": "~", "unknown": "?"}
"""How verdicts look in the terminal."""


def groups(found: Groups) -> str:
    """The table of groups."""
    rows = [[", ".join(found.keys), "runs", *(_titled(name) for name in found.metrics)]]
    for group in found.groups:
        cells = [_group_cell(group.cells.get(name)) for name in found.metrics]
        rows.append([group.name, str(len(group.run_ids)), *cells])
    base = found.groups[0].name
    return "\n".join([
        *_table(rows),
        "",
        f"In %: mean ± standard deviation over seeds. In brackets the mean gain over {base} in points,"
        " paired by seed, and in how many seeds there was one;",
        f"{', '.join(f'{v}: {MARKS[k]}' for k, v in LEGEND.items() if k != 'unknown')}"
        " (95 % interval of Student's t over the pairs).",
        *found.notes,
    ])  # fmt: skip


def letter(number: int) -> str:
    """A, B, C, ...: what a side is called in the terminal."""
    return chr(ord("A") + number) if number < 26 else f"#{number + 1}"


def short(name: str, value: str | None) -> str:
    """A value as a table shows it: of digests and commits the beginning."""
    if value is None:
        return "-"
    if name.endswith("_digest") or name == "git_sha":
        return value[:DIGEST] + ("-dirty" if value.endswith("-dirty") else "")
    return value


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return (
        f"{100 * fraction:+.1f}".replace("+0.0", "0.0")
        .replace("-0.0", "0.0")
        .replace("-", "\u2212")
    )


def _cell(metric: Metric, value: Value) -> str:
    if value.value is None:
        return "-"
    text = f"{100 * value.value:.1f}"
    if value.points is None:
        return text
    sure = value.gain
    span = f" [{points(sure.low)}, {points(sure.high)}]" if sure else ""
    return f"{text} ({points(value.points)}{span}) {MARKS[value.verdict]}"


def _titled(metric: str) -> str:
    return metric.replace("/mean/", " ").replace("_", " ")


def _group_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    spread = f" ± {100 * cell.deviation:.1f}" if cell.deviation is not None else ""
    return f"{100 * cell.mean:.1f}{spread}{_group_gain(cell.gain)}"


def _group_gain(gain: Gain | None) -> str:
    if gain is None:
        return ""
    if not gain.num_pairs:
        return f" ({points(gain.mean)}, unpaired)"
    mark = f" {MARKS[gain.verdict]}" if gain.interval else ""
    return f" ({points(gain.mean)}, {gain.num_above}/{gain.num_pairs}){mark}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip
