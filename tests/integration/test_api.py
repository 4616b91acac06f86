# SPDX-License-Identifier: Apache-2.0
"""The example of docs/api.md that needs a guest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.vm("6.12")
def test_a_script_runs_a_livepatch(tmp_path: Path) -> None:
    text = (ROOT / "docs/api.md").read_text()
    [program] = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if " run," in each]
    output = text.partition(program)[2].partition("```text\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (output, "")
    assert (tmp_path / "out/run.json").is_file()
