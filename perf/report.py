#!/usr/bin/env python3
"""Numbers for the scripts.

report.py latencies FILE...   pgbench's per-transaction logs: count, then mean, p50, p99, p99.9 and max in
                              milliseconds, one line, tab separated. Percentiles are exact (nearest rank).
report.py table FILE          runs to a Markdown table. FILE is tab separated: a header line `case program METRIC...`,
                              then one for each run. Cells are medians (smallest to largest); $BASELINE is the
                              program that others are compared with, pg_receivewal if it is not set. Or $RATIOS
                              says what is compared: lines `ONE ÷ OTHER`.
"""

import csv
import math
import os
import statistics
import sys

BASELINE = os.environ.get("BASELINE", "pg_receivewal")
RATIOS = [line.split(" ÷ ") for line in os.environ.get("RATIOS", "").splitlines()]


def number(value):
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def cell(values):
    spread = f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""
    return number(statistics.median(values)) + spread


def ratio(baseline, other):
    divisor = statistics.median(other)
    return f"**{statistics.median(baseline) / divisor:.2f}**" if divisor else "–"


def table(path):
    with open(path, encoding="utf-8", newline="") as runs:
        (_, _, *metrics), *rows = csv.reader(runs, delimiter="\t")
    cases = {}
    for case, program, *values in rows:
        cases.setdefault(case, {}).setdefault(program, []).append([float(value) for value in values])
    lines = [["", "", *metrics], ["---", "---", *["---:"] * len(metrics)]]
    for case, programs in cases.items():
        columns = {program: list(zip(*runs)) for program, runs in sorted(programs.items())}
        for program, values in columns.items():
            lines.append([case, program, *map(cell, values)])
            case = ""
        pairs = RATIOS or [(BASELINE, program) for program in columns if program != BASELINE]
        for one, other in pairs:
            lines.append(["", f"{one} ÷ {other}", *map(ratio, columns[one], columns[other])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percentile(ascending, share):
    return ascending[max(math.ceil(share * len(ascending)), 1) - 1]


def latencies(paths):
    """A log line is: client, transaction, latency in microseconds, script, epoch seconds, microseconds."""
    milliseconds = []
    for path in paths:
        with open(path, encoding="ascii") as log:
            milliseconds.extend(int(line.split()[2]) / 1000 for line in log)
    if not milliseconds:
        sys.exit("report.py: no transaction in the logs")
    milliseconds.sort()
    results = [statistics.fmean(milliseconds)]
    results += [percentile(milliseconds, share) for share in (0.5, 0.99, 0.999, 1)]
    return "\t".join([str(len(milliseconds))] + [f"{value:.4f}" for value in results])


def main():
    match sys.argv[1:]:
        case ["latencies", *paths] if paths:
            print(latencies(paths))
        case ["table", path]:
            print(table(path))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
