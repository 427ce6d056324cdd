"""docs/data.md says what is true."""

import json
import re
from pathlib import Path

from jsm_queue.data.options import GRAPH_NEAR_DUPLICATE, PAIRS_NEAR_DUPLICATE
from jsm_queue.data.quantities import quantities
from jsm_queue.data.readers import Pairs, read_source
from jsm_queue.data.shapes import SHAPES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_shape_has_an_example_that_reads(tmp_path: Path) -> None:
    shapes = []
    for number, (suffix, text) in enumerate(re.findall(r"```(jsonl|csv)\n(.*?)```", PAGE, re.DOTALL)):
        path = tmp_path / f"{number}.{suffix}"
        path.write_text(text, encoding="utf-8")
        source = read_source(path)
        assert isinstance(source, Pairs) and source.ignored == source.unusable == []
        shapes.append(source.shape)
    assert set(shapes) == set(SHAPES) and len(shapes) == 5


def test_the_near_duplicate_table_is_the_measured_one() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "near_duplicates.json").read_text(encoding="utf-8"))["rows"]
    measured = {row["case"].replace(" (default)", ""): row["value"] for row in rows}
    table = re.findall(r"^\| \**(0\.\d\d)\** \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(table) == 10
    for threshold, cells in table:
        told = [float(cell.strip(" *")) for cell in cells.split("|")]
        names = ["graph {} recall", "pairs {} recall", "pairs {} precision", "pairs {} entity dropped"]
        for value, name in zip([told[0], told[2], told[3], told[5]], names, strict=True):
            assert abs(value - measured[name.format(threshold)]) <= 0.0051, (threshold, name)
        assert abs(told[6] - measured[f"pairs {threshold} training lost, all from wordings"]) <= 0.0051
    assert (
        f"**a graph's default is {GRAPH_NEAR_DUPLICATE}**" in PAGE and f"**Pairs keep {PAIRS_NEAR_DUPLICATE}**" in PAGE
    )


def test_numbers_that_it_calls_one_are_one() -> None:
    for one, other in [
        ("１，５００ ｍ", "千五百m"),
        ("1500メートル", "1500m"),
        ("300㎥/s", "毎秒300立方メートル"),
        ("8％", "八パーセント"),
        ("2億3千万円", "230,000,000円"),
    ]:
        assert one in PAGE and [q.key for q in quantities(one)] == [q.key for q in quantities(other)] != []
