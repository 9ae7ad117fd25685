"""``whylight doctor``: looks at this installation and says what works, what does not, and why; mends nothing."""

from __future__ import annotations

import click

from whylight.cli.parameters import json_option

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "broken": "[red]BROKEN[/]"}


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Check this installation. The exit code is 1 when something is broken."""
    from whylight.cli import printing
    from whylight.cli.checkup import Finding, examine

    findings: list[Finding] = []
    with printing.waiting("looking"):
        findings.extend(examine())
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        printing.print_json({"broken": broken, "findings": findings})
        return int(broken)
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(_MARKS[finding.state], finding.subject, escape(finding.detail))
    printing.output().print(table)
    return int(broken)
