import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_in_the_documentation_runs(capsys):
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (DOCS / "optimization.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/optimization.md", "exec"), {})
    told = capsys.readouterr().out
    assert told.startswith("decomposition: ")
    with_price, without = map(int, re.search(r"(\d+) kW instead of (\d+)", told).groups())
    assert with_price < without
