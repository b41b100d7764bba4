import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from clipflow.evaluate import charts


def test_a_dot_lies_where_its_value_is():
    svg = charts.dots([charts.Row("task", 0.25, {"ensemble": 0.5})])
    x = re.search(r'class="mark ensemble"><circle cx="([\d.]+)"', svg).group(1)
    assert float(x) == charts.LABEL_PX + charts.PLOT_PX / 2


@pytest.mark.parametrize(
    "points",
    [[(0, 1.0)], [(10, 2.0), (20, 2.0)], [(1, 1e-4), (1000, 1e-3)], [(0, -5.0), (7, 1e6)]],
)
def test_a_curve_stays_inside_its_frame(points):
    svg = charts.curve("loss", points, points)
    root = ET.fromstring(svg)
    width, height = map(float, root.get("viewBox").split()[2:])
    lines = [e for e in root.iter() if e.tag == "polyline"]
    assert len(lines) == 2
    for pair in lines[0].get("points").split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_confusion_shares_are_of_the_whole_row():
    counts = np.array([[1, 1, 2], [0, 4, 0], [0, 0, 4]])
    svg = charts.confusion(counts, ["a", "b", "<c>"], [0, 1])
    assert re.findall(r"<title>(.*?)</title>", svg) == [
        "a taken for a: 1 of 4", "a taken for b: 1 of 4",
        "b taken for a: 0 of 4", "b taken for b: 4 of 4",
    ]  # fmt: skip
    assert re.findall(r'class="mid.*?">(\d+)</text>', svg) == ["25", "25", "100"]
    assert "<c>" not in svg


def test_the_classes_in_most_mistakes_are_drawn_in_order():
    counts = np.diag([9, 9, 9, 9])
    counts[3, 0] = 2
    counts[2, 3] = 1
    assert charts.most_confused(counts, 2) == [0, 3]
    assert charts.most_confused(counts, 9) == [0, 1, 2, 3]
