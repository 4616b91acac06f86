# SPDX-License-Identifier: Apache-2.0
"""Lines that a patch leaves as they are keep their numbers, as the preprocessor counts."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from klp.sourcepatch.lines import hold_lines

# What lines of C may do to those that count them.
PIECES = (
    "int v@;", "#if 0\nint v@;\n#endif", "#ifdef A\nint v@;\n#else\nint w@;\n#endif",
    "#define M@ 1 + \\\n 2", "/* a comment\n   of lines @ */", "char *s@ = \"/* no comment\";",
    "char c@ = '\"'; /* one */ int q@;", "// v@ \\\n goes on", "", "}",
    "#if 1\n#if 0\nint v@;\n#endif\n#endif", "int w@; /* begins @\n ends */ int x@;",
)  # fmt: skip


def counted(text: str) -> dict[str, int]:
    """Return the number by which the preprocessor knows each line of code, by what stands there.

    A small one of its own: it takes no macros, has A undefined, and knows comments by their pieces.
    """
    found: dict[str, int] = {}
    number, taken, comment, goes_on = 0, [True], False, False
    for line in text.splitlines():
        number += 1
        free = not comment and not goes_on
        plain = re.sub(r'"[^"]*"|/\*.*?\*/|\'"\'', "", line)
        if free and (said := re.match(r"#line (\d+)", line)):
            number = int(said[1]) - 1 if all(taken) else number
        elif free and line.startswith("#if"):
            taken.append(line == "#if 1")
        elif free and line.startswith("#else"):
            taken[-1] = not taken[-1]
        elif free and line.startswith("#endif"):
            taken.pop()
        elif all(taken) and free and re.search(r"\d;$|\d;.*/\*", line):
            found[line] = number
        comment = "*/" not in line if comment else "/*" in plain and "//" not in plain
        goes_on = line.endswith("\\")
    return found


def edited(lines: Sequence[str], chance: random.Random) -> list[str]:
    after = []
    for line in lines:
        kind = chance.random()
        if kind < 0.1:
            after += [piece.replace("@", f"n{len(after)}") for piece in chance.sample(PIECES, 2)]
        if kind > 0.05:
            after.append(line)
    return after


@pytest.mark.parametrize("seed", range(300))
def test_every_unchanged_line_keeps_its_number(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [chance.choice(PIECES).replace("@", str(number)) for number in range(40)]
    # Pieces are whole: what is removed or added is one with its #endif.
    before = "\n".join(pieces) + "\n"
    after = "\n".join(edited(pieces, chance)) + "\n"
    held = hold_lines(before.encode(), after.encode()).decode()
    old, new = counted(before), counted(held)
    assert {line: new[line] for line in new if line in old} == {
        line: old[line] for line in new if line in old
    }
    assert re.sub(r"^#line \d+\n", "", held, flags=re.MULTILINE) == after


def test_the_counter_of_these_tests_sees_what_is_wrong() -> None:
    assert counted("int v1;\n#line 8\nint v2;\n#if 0\n#line 2\n#endif\nint v3;\n") == {
        "int v1;": 1, "int v2;": 8, "int v3;": 12,
    }  # fmt: skip
    assert counted("/*\n#line 3\n*/\nint v1;\n") == {"int v1;": 4}


@pytest.mark.parametrize(
    ("before", "after", "held"),
    [
        ("a\nb\n", "a\nb\n", "a\nb\n"),
        ("a\nb\n", "a\nx\nb\n", "a\nx\n#line 2\nb\n"),
        ("a\nb\nc\n", "a\nc\n", "a\n#line 3\nc\n"),
        ("a\nb\n", "x\nb\n", "x\nb\n"),
        ("a\nb\n", "a\nb\nx\n", "a\nb\nx\n"),
        ("a\nb", "x\na\nb", "x\n#line 1\na\nb"),
        ("", "x\n", "x\n"),
        ("a \\\nb\nc\n", "n \\\na \\\nb\nc\n", "n \\\na \\\nb\n#line 3\nc\n"),
        ("a \\ \nb\nc\n", "n \\\na \\ \nb\nc\n", "n \\\na \\ \nb\n#line 3\nc\n"),
        ("/*\na\n*/\nb\n", "/*\nn\na\n*/\nb\n", "/*\nn\na\n*/\n#line 4\nb\n"),
        ("s = '/*'\nb\n", "n\ns = '/*'\nb\n", "n\n#line 1\ns = '/*'\nb\n"),
        ("#if X\na\n#endif\nb\n", "#if X\nn\na\n#endif\nb\n", "#if X\nn\n#line 2\na\n#endif\n#line 4\nb\n"),
        (
            "#if X\na\n#else\nb\n#endif\nc\n", "#if X\nn\na\n#else\nb\n#endif\nc\n",
            "#if X\nn\n#line 2\na\n#else\n#line 4\nb\n#endif\n#line 6\nc\n",
        ),
        # Groups in groups, where the line that would take the directive is changed, too.
        (
            "#if A\n#if B\na\n#endif\n#endif\nb\n", "#if A\n#if B\nn\na\n#endif //\n#endif //\nb\n",
            "#if A\n#if B\nn\n#line 3\na\n#endif //\n#endif //\n#line 6\nb\n",
        ),
        (
            "#if A\na\n#if C\nc\n#endif\n#endif\nd\n", "#if A\nn\na\n#if C\nc\n#endif\n#endif\nd\n",
            "#if A\nn\n#line 2\na\n#if C\nc\n#endif\n#endif\n#line 7\nd\n",
        ),
    ],
)  # fmt: skip
def test_where_a_directive_stands(before: str, after: str, held: str) -> None:
    assert hold_lines(before.encode(), after.encode()).decode() == held


def test_the_compiler_counts_so(tool: Callable[[str], str], tmp_path: Path) -> None:
    before = "".join(f"#if {n % 3}\nint v{n} = __LINE__;\n#else\n/* {n}\n*/\n#endif\n" for n in range(40))
    after = before.replace("int v7", "int x;\nint y;\nint v7").replace("/* 9", "int z;\n/*\n9")
    after = after.replace("int v20 = __LINE__;\n", "").replace(
        "#if 1\nint v31", "#if 0\n#endif\n#if 1\nint v31"
    )
    gcc = tool("gcc")

    def numbers(text: bytes) -> set[str]:
        file = tmp_path / "a.c"
        file.write_bytes(text)
        made = subprocess.run([gcc, "-E", "-P", file], check=True, capture_output=True, text=True)
        return set(re.findall(r"int v\d+ = \d+", made.stdout))

    old = {each for each in numbers(before.encode()) if not each.startswith("int v20 ")}
    assert numbers(hold_lines(before.encode(), after.encode())) == old
    assert numbers(after.encode()) != old


def test_a_long_file_takes_no_long_time() -> None:
    lines = [f"line {n % 900}\n" if n % 3 else "}\n" for n in range(30000)]
    after = ["first\n", *lines[:20000], "middle\n", *lines[20001:], "last\n"]
    begun = time.process_time()
    held = hold_lines("".join(lines).encode(), "".join(after).encode())
    assert time.process_time() - begun < 5  # a fraction of a second, and a quarter of a minute without care
    assert held.startswith(b"first\n#line 1\n")
