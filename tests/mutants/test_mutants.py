"""Every mutant still fits the code, and names a test that exists; `make mutate` shows that it is killed.

Not covered: whether the tests fail.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_names_a_test(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / mutant.file).read_bytes())
    original = mutant.apply(tmp_path)
    assert copy.read_text("utf-8") != original
    file, _, function = mutant.test.partition("::")
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text("utf-8"), re.M)


def test_a_mutant_that_no_longer_fits_is_loud(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("twice\ntwice\n")
    with pytest.raises(ValueError, match="the code has moved on"):
        Mutant("x", "y", "code.py", "twice", "once", "z").apply(tmp_path)
