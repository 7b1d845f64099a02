"""The page about likelihoods: its key gives the number that it shows."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/likelihood.md"


def test_the_number_of_the_example_is_that_of_its_key() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(blocks[0], {})
