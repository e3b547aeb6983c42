"""Draw the error along the straight line from records, as a PNG for a document.

usage: python scripts/figure.py RECORDS... --out FILE.png
example: python scripts/figure.py runs/mnist --out docs/results/mnist.png
"""

import argparse
from pathlib import Path

import vl_convert

from compare.report.charts import path_chart
from compare.report.sections import sections
from compare.runs import read_records, write_bytes


def main() -> None:
    """Read the options and draw."""
    parser = argparse.ArgumentParser(description="Draw the error along the straight line, train samples, as a PNG.")
    parser.add_argument("records", type=Path, nargs="+", help="record files, or output folders of `compare-nets run`")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    options = parser.parse_args()
    (section,) = sections(read_records(options.records))
    chart = path_chart(section, "linear", "train")
    assert chart is not None, "records hold curves on train samples"
    write_bytes(options.out, vl_convert.vegalite_to_png(chart.spec, scale=1.5))


if __name__ == "__main__":
    main()
