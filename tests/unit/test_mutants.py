# SPDX-License-Identifier: Apache-2.0
"""Mutants of the kernel: how a statement is found and replaced, how results are read, kept and told.

That each fits the kernel's source needs that source: `make mutants` checks it first.
"""

from __future__ import annotations

import msgspec
import pytest

from klp.errors import UsageError
from klp.toml import read_toml
from tests.mutants import record, table
from tests.mutants.__main__ import page_file
from tests.mutants.edit import Mutant, apply
from tests.mutants.edit import Table as MutantTable
from tests.mutants.measure import Finding, read_junit
from tests.mutants.record import Provenance, Record

SOURCE = """\
static int other(struct thing *it);

/* Says that one() counts. */
static int one(struct thing *it,
		int (*how)(int a, int b))
{
	count = 0;
	if (it)
		count++;
	return other(it);
}

static int other(struct thing *it)
{
	count++;
	count++;
	return one(it);
}
"""


def mutant(function: str = "one", statement: str = "count++;", replacement: str = ";") -> Mutant:
    return Mutant(
        name="bad", file="a.c", function=function, statement=statement, replacement=replacement,
        breaks="it does not count", rules=("T1",),
    )  # fmt: skip


def test_a_statement_is_replaced_in_its_function_alone():
    assert apply(SOURCE, mutant()) == SOURCE.replace("\t\tcount++;\n", "\t\t;\n")


def test_blanks_and_line_breaks_are_the_same():
    changed = apply(SOURCE, mutant(statement="if (it) count++;", replacement="count--;"))
    assert "\tcount = 0;\n\tcount--;\n\treturn other(it);" in changed


@pytest.mark.parametrize(
    ("function", "statement", "said"),
    [
        ("one", "count--;", "one has the statement 0 times"),
        ("other", "count++;", "other has the statement 2 times"),
        ("one", "return one(it);", "one has the statement 0 times"),
        ("two", "count++;", "defines two 0 times"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(function, statement, said):
    with pytest.raises(UsageError, match=said) as refused:
        apply(SOURCE, mutant(function, statement))
    assert refused.value.message.startswith("mutant bad: a.c: ")
    assert "\n" not in refused.value.message


def test_a_function_defined_twice_is_refused():
    with pytest.raises(UsageError, match="defines one 2 times"):
        apply(SOURCE + SOURCE, mutant())


def test_the_table_of_mutants_can_be_read(root):
    mutants = read_toml(root / "tests/mutants/mutants.toml", MutantTable).mutant
    assert len(mutants) >= 12
    assert len({each.name for each in mutants}) == len(mutants)
    assert all(each.statement != each.replacement and each.rules for each in mutants)


JUNIT = """<testsuites><testsuite>
<testcase file="tests/suite/test_a.py" name="test_fine[linux]"/>
<testcase file="tests/suite/test_a.py" name="test_left_out[linux]"><skipped message="not here"/></testcase>
{more}</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ('<failure message="assert 1 == 2&#10;where 1 is">long</failure>', "assert 1 == 2"),
        ("<error>a rule\nis violated</error>", "a rule"),
    ],
)
def test_the_first_failure_of_a_report(element, said):
    bad = f'<testcase file="tests/suite/test_b.py" name="test_bad[linux]">{element}</testcase>'
    assert read_junit(JUNIT.format(more=bad)) == (("tests/suite/test_b.py::test_bad[linux]", said), 2)


def test_a_report_without_failures():
    assert read_junit(JUNIT.format(more="")) == (None, 1)


def finding(by: str = "") -> Finding:
    return Finding(by=by, message="assert 1 == 2" if by else "", seconds=30.0, run=5)


def found(name: str = "bad", *, by: str = "", upstream: str = "", lost: str = "") -> Record:
    return Record(
        mutant=msgspec.structs.replace(mutant(), name=name),
        provenance=Provenance(
            key="k", release="6.12.1", source="6.12.1-1", commit="abc", date="2026-11-21",
            accelerator="tcg", qemu="7.2",
        ),
        lost=lost, suite=None if lost else finding(by), selftests=None if lost else finding(upstream),
        build_s=60.0,
    )  # fmt: skip


def test_a_record_is_read_back_only_for_the_same_kernel(tmp_path):
    file = tmp_path / "results" / "bad.json"
    assert record.read(file, "k") is None
    record.write(file, found(by="x"))
    assert record.read(file, "k") == found(by="x")
    assert record.read(file, "another") is None
    file.write_text("{")
    assert record.read(file, "k") is None


def named(*names: str) -> list[Mutant]:
    return [msgspec.structs.replace(mutant(), name=each) for each in names]


def test_the_page_counts_what_was_tested():
    records = {
        "a": found("a", by="tests/suite/test_b.py::test_bad[linux-x]", upstream="test-state.sh: case"),
        "b": found("b", by="tests/suite/test_b.py::test_bad[linux]"),
        "c": found("c"),
        "d": found("d", lost="the guest did not come up"),
    }
    base = msgspec.structs.replace(found(), mutant=None)
    text = table.page(base, records, named("a", "b", "c", "d", "e"))
    assert "catches 2 of 3**, the kernel's own selftests 1 of 3; of 5 mutants 4 were run" in text
    assert "| **caught** by test_b.py::test_bad[x] | **caught** by test-state.sh: case | 120 |" in text
    assert "| **caught** by test_b.py::test_bad | survived | 120 |" in text
    assert "| survived | survived | 120 |" in text
    assert "| not tested | not tested | 60 |" in text
    assert "Not run yet: e." in text
    assert "`one` in a.c: `count++;` becomes `;`" in text
    assert "2026-11-21 at abc" in text


def test_the_page_tells_a_control_that_fails():
    base = msgspec.structs.replace(found(by="test_x"), mutant=None)
    assert "suite: 5 tests, fails (test_x)" in table.page(base, {}, named("a"))


def test_a_part_of_the_results_replaces_no_table_of_all():
    assert page_file(19, 19).parts[-2:] == ("docs", "mutants.md")
    assert page_file(18, 19).parts[-3:] == ("build", "mutants", "mutants.md")
