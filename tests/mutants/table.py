# SPDX-License-Identifier: Apache-2.0
"""docs/mutants.md: which mutants were caught, by which test, with the run that it comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.mutants.edit import Mutant
from tests.mutants.measure import Finding
from tests.mutants.record import Record

_HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by `make mutants`; changes by hand are lost. -->
# Does it find bugs?

Each mutant is a Linux kernel with one fault in its livepatch core: one statement in place of another
([mutants.toml](../tests/mutants/mutants.toml)), put at build time into the source of Debian's own
package, and built as a kernel trimmed to what klp needs
([trimmed.config](../tests/mutants/trimmed.config)). `make mutants` boots each, and runs against it the
whole suite (tests/suite), the tests that observe the mutant's rules first, up to the first failure; and
all of the kernel's own livepatch selftests.

*Caught* means that a test failed, and failed again when it was run once more on its own; *survived*, that
all passed. The same suite and selftests pass on the same kernel without a fault. What a selftest says is
its own exit status; whether klp's rules object to what it did is told apart, and is no catch of the
selftests'.
"""


def page(base: Record | None, records: Mapping[str, Record], mutants: Sequence[Mutant]) -> str:
    """Return the page."""
    done = [(each, records[each.name]) for each in mutants if each.name in records]
    parts = [_HEAD, _summary(base, done, mutants), _table(done)]
    left = [each.name for each in mutants if each.name not in records]
    if left:
        parts.append("Not run yet: " + ", ".join(left) + ".\n")
    parts.append(_details(done))
    return "\n".join(parts)


def _summary(base: Record | None, done: Sequence[tuple[Mutant, Record]], mutants: Sequence[Mutant]) -> str:
    tried = [record for _, record in done if not record.lost]
    ours, upstream = _caught(each.suite for each in tried), _caught(each.selftests for each in tried)
    both = sum(each.selftests is not None for each in tried)
    lines = [
        f"- **The suite catches {ours} of {len(tried)}**, the kernel's own selftests {upstream} of {both}; "
        f"of {len(mutants)} mutants {len(done)} were run."
    ]
    if base:
        from_ = base.provenance
        lines.append(f"- Without a fault, run {from_.date} at {from_.commit}: {_control(base)}")
        machine = f"{from_.accelerator}, QEMU {from_.qemu}"
        lines.append(f"- Kernel {from_.release}, source package {from_.source}, {machine}.")
    runs = sorted({(each.provenance.date, each.provenance.commit) for _, each in done})
    spent = sum(_seconds(each) for _, each in done)
    told = ", ".join(f"{date} at {commit}" for date, commit in runs)
    lines.append(f"- Run {told or 'never'}; {spent / 60:.0f} minutes in all.\n")
    return "\n".join(lines)


def _caught(findings: Iterable[Finding | None]) -> int:
    return sum(bool(each and each.by) for each in findings)


def _control(base: Record) -> str:
    if base.lost:
        return f"{base.lost}."
    parts = []
    for name, found, unit in (("suite", base.suite, "tests"), ("selftests", base.selftests, "cases")):
        if found:
            verdict = f"fails ({found.by})" if found.by else "all pass"
            parts.append(f"{name}: {found.run} {unit}, {verdict}, in {found.seconds:.0f} s")
    return "; ".join(parts) + "."


def _seconds(record: Record) -> float:
    found = (each.seconds for each in (record.suite, record.selftests) if each)
    return record.build_s + record.ready_s + sum(found)


def _table(done: Sequence[tuple[Mutant, Record]]) -> str:
    lines = ["| mutant | what it does wrong | rules | suite | selftests | s |", "|---|---|---|---|---|---|"]
    for mutant, record in done:
        cells = (
            f"`{mutant.name}`", mutant.breaks, " ".join(mutant.rules), _cell(record, record.suite),
            _cell(record, record.selftests), f"{_seconds(record):.0f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(record: Record, found: Finding | None) -> str:
    if record.lost:
        return "not tested"
    if found is None:
        return "not run"
    return f"**caught** by {_escaped(_short(found.by))}" if found.by else "survived"


def _short(by: str) -> str:
    """Leave out what is the same for all: the folder, and the kernel's name among the parameters."""
    name = by.rpartition("/")[2]
    return name.replace("[linux]", "").replace("[linux-", "[").replace("-linux]", "]")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _details(done: Sequence[tuple[Mutant, Record]]) -> str:
    lines = ["## What was changed, and what was said", ""]
    for mutant, record in done:
        was, becomes = (" ".join(each.split()) for each in (mutant.statement, mutant.replacement))
        where = f"`{mutant.function}` in {mutant.file}"
        lines.append(f"- `{mutant.name}`: {where}: `{was}` becomes `{becomes}`.")
        lines += [f"  {line}" for line in _said(record)]
    return "\n".join(lines) + "\n"


def _said(record: Record) -> list[str]:
    lines = [f"Not tested: {record.lost}"] if record.lost else []
    for name, found in (("Suite", record.suite), ("Selftests", record.selftests)):
        if found and found.by:
            lines.append(f"{name}, after {found.run} run: {_escaped(found.message)}")
        if found and found.unsteady:
            lines.append(f"{name}: failed once and then passed: {', '.join(map(_short, found.unsteady))}")
    if record.broken:
        lines.append(f"The selftests' traces break, by klp: {', '.join(record.broken)}")
    return lines
