"""`lambdaml report`"""

from __future__ import annotations

from lambdaml.cli import _format, _options


def report(run: _options.Run, prices: _options.Prices = None, as_json: _options.Json = False) -> int:
    """Put what a plan expected of a run beside what it took: time, dollars, requests, staleness, steps."""
    from lambdaml.cost.prices import user_book
    from lambdaml.cost.report import report as compare
    from lambdaml.run import Run

    found = compare(Run(run), user_book(*([prices] if prices else [])))
    if as_json:
        _format.print_json(found.to_dict())
        return 0
    rows = [
        [
            row.what,
            f"{row.planned:,.4g} {row.unit}".strip(),
            f"{row.actual:,.4g} {row.unit}".strip(),
            "" if row.error is None else f"{row.error:+.0%}",
        ]
        for row in found.comparisons
    ]
    _format.print_table(["", "planned", "actual", "off"], rows, left=[""])
    print(f"\nplanned: {found.reason}")
    print(f"billed as {found.bill.platform} on {found.bill.channel}: {_format.usd(found.bill.bill.usd)}")
    for note in found.bill.notes:
        print(f"  {note}")
    return 0
