"""Tests of how the page looks: colours, axes, discovered architectures."""

import html
import json
import re

import pytest

from keras_app.experiments.page import drawing
from keras_app.experiments.page import write_page
from tests.pages import a_full_run
from tests.pages import a_run
from tests.pages import a_summary
from tests.pages import a_training
from tests.pages import figures
from tests.pages import page_of
from tests.pages import plain
from tests.pages import write_many
from tests.pages import write_tickets
from tests.pages import write_training

pytestmark = pytest.mark.backend_free


# ---- looks -----------------------------------------------------------------


def colours(written, *labels):
    """The colours of entries of the legends, `[{...}, ...]`."""
    found = {label: set() for label in labels}
    for entry in re.findall(r"<li><svg.*?</li>", written, re.S):
        if plain(entry) in found:
            color = re.search(r'stroke="(#\w+)"', entry).group(1)
            found[plain(entry)].add(color.lower())
    return list(found.values())


def test_a_method_has_one_colour_on_every_page_in_any_order(tmp_path):
    full = a_full_run(tmp_path / "full")
    others = [
        a_training(tmp_path / name, method, 0.5, density)
        for name, method, density in (
            ("rigl", "Adam + RigL", 0.1),
            ("own", "my_method", 0.2),
            ("plain", "Adam", 1.0),
        )
    ]
    page = tmp_path / "page.html"
    alone = write_page(full, page).read_text()
    assert colours(alone, "APP", "dense") == [{"#0072b2"}, {"#4d4d4d"}]
    for folders in ([full, *others], [*reversed(others), full]):
        written = write_page(folders, page).read_text()
        assert colours(written, "APP", "dense", "Adam (dense)") == [
            *({"#0072b2"}, {"#4d4d4d"}, {"#4d4d4d"})
        ]
        names = "Adam + RigL", "my method"
        assert colours(written, *names) == [{"#332288"}, {"#cc79a7"}]


def test_known_methods_differ_in_colour_or_mark_and_none_looks_dense():
    looks = [drawing.look(name) for name in drawing._KNOWN]
    pairs = {(look["color"], look["marker"]) for look in looks}
    assert len(pairs) == len(drawing._KNOWN)
    dense = drawing.look("Adam", dense="Adam")
    assert dense["color"] not in {look["color"] for look in looks}


def test_twelve_settings_are_told_apart_and_named_in_full(tmp_path):
    name = "a-long-name-of-a-run-that-no-picture-could-hold"
    folders = [
        a_training(tmp_path / f"{name}-{i:02}", "Adam + RigL", 0.5, i / 20)
        for i in range(1, 13)
    ]
    written = write_page(folders, tmp_path / "page.html").read_text()
    chart = re.search(r"RigL: accuracy</b>.*?</figure>", written, re.S).group()
    entries = re.findall(r"<li><svg.*?</li>", chart, re.S)
    looks = {
        plain(entry): re.findall(
            r'stroke="(.*?)".*?stroke-dasharray="(.*?)"', entry, re.S
        )
        for entry in entries
    }
    shown = {k: str(v) for k, v in looks.items() if k.startswith(name)}
    assert len(shown) == len(set(shown.values())) == 12


@pytest.mark.parametrize(
    "write", [a_full_run, write_training, write_tickets, write_many]
)
def test_no_title_is_a_key(tmp_path, write):
    folders = write(tmp_path / "run")
    folders = folders if isinstance(folders, list) else [folders]
    written = write_page(folders, tmp_path / "page.html").read_text()
    for tag in ("h1", "h2", "th", "dt", "summary", "figcaption"):
        for text in re.findall(rf"<{tag}[ >].*?</{tag}>", written, re.S):
            # Names of runs are the user's.
            text = re.sub(r"density_\d+", "", plain(text))
            assert "_" not in text and "lam" not in text.split(), text


def test_tables_scroll_in_a_box_with_a_name(tmp_path):
    written = write_page(a_full_run(tmp_path / "run")).read_text()
    boxes = re.findall(
        r'<div class="scroll[^"]*" tabindex="0" role="region" '
        r'aria-label="[^"]+"><table>',
        written,
    )
    assert len(boxes) == written.count("<table>") >= 2


@pytest.mark.parametrize(
    "values, least, expected",
    [
        # Noise of half a point: ten points, and 5 % of them on both sides.
        ([50.0, 50.5], 10.0, (44.75, 55.75)),
        ([], 10.0, (-0.5, 10.5)),
        # At the top they reach no further than 100.
        ([99.0, 99.5], 10.0, (89.5, 100.5)),
        ([1.0, 1.0], 10.0, (-0.5, 10.5)),
        # What is wider is left alone.
        ([20.0, 80.0], 10.0, (17.0, 83.0)),
    ],
)
def test_axes_do_not_blow_noise_up(values, least, expected):
    found = drawing.limits(values, least, (0, 100))
    assert found == pytest.approx(expected)


# ---- discovered architecture -----------------------------------------------


CONNECTIONS = {
    "connections": {
        "sources": ["stem", "unit 1"],
        "targets": ["unit 1", "unit 2"],
        "density": [[0.028, None], [0.0, 1.0]],
    }
}
ARCHITECTURE = {
    "architecture": {
        "units": 1000,
        "active_rows": [1000, 12, 0],
        "skips": [[0.0, None, None], [-1.25, 0.0, None], [0.0, 0.001, 0.5]],
    }
}


def discoveries(written):
    """`{caption: alt}` of the section's figures."""
    section = re.search(
        r"<h2>Discovered architecture</h2>(.*?)</section>", written, re.S
    )
    pairs = re.findall(
        r'<figcaption><b>(.*?)</b>.*?alt="([^"]*)"', section.group(1), re.S
    )
    return {caption: html.unescape(alt) for caption, alt in pairs}


def test_page_without_a_discovered_architecture_has_no_such_section(tmp_path):
    written = page_of(tmp_path, {"dense": figures(0.5, 9)})
    assert "Discovered" not in written


def test_connections_are_drawn_and_told_in_percent(tmp_path):
    written = page_of(tmp_path, {"adabreg": figures(0.5, 9)}, **CONNECTIONS)
    assert discoveries(written) == {
        "Connections": "Heat map of the connections that are left, in "
        "percent: to unit 1 2.8 from stem; to unit 2 0 from stem, 100 from "
        "unit 1."
    }


def test_widths_and_skips_are_drawn_and_told(tmp_path):
    written = page_of(tmp_path, {"adabreg": figures(0.5, 9)}, **ARCHITECTURE)
    assert discoveries(written) == {
        "Active units": "Bar chart of the active units per layer, of 1000: "
        "1000, 12 and 0.",
        "Skips": "Heat map of the skip coefficients: input to layer 2 −1.25, "
        "layer 1 to layer 3 0.00, layer 2 to layer 3 0.50.",
    }
    assert "dashed is what a layer has, 1,000." in plain(written)


def test_no_skips_at_all_are_said_to_be_zero(tmp_path):
    summary = json.loads(json.dumps(ARCHITECTURE))
    summary["architecture"]["skips"] = [[0.0, None], [0.0, 0.0]]
    written = page_of(tmp_path, {"adabreg": figures(0.5, 9)}, **summary)
    alt = discoveries(written)["Skips"]
    assert alt == "Heat map of the skip coefficients: all zero."


def test_discoveries_of_several_runs_carry_their_names(tmp_path):
    methods = {"adabreg": figures(0.5, 9)}
    folders = [
        a_run(tmp_path / name, a_summary(methods, **found))
        for name, found in (("a", CONNECTIONS), ("b", ARCHITECTURE), ("c", {}))
    ]
    written = write_page(folders).read_text()
    names = ["Connections, a", "Active units, b", "Skips, b"]
    assert list(discoveries(written)) == names
