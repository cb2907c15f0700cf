"""Stored results of several experiments: what is found, what is named as unreadable, and the page over all of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from browsing import SCREENS, check_nothing_scrolls_sideways
from judgements import finding
from reading import HOSTILE, Reader
from stored_results import PAPER, png, stored

from cli_runner import assert_refused, run
from collapselab import InputError
from collapselab.registry import experiments
from collapselab.results.page import results_page, write_results_page
from collapselab.results.stored import StoredResults, read_results

RESULTS = Path(__file__).parents[3] / "results"


def check_links(html: str, beside: Path) -> Reader:
    """Nothing from outside; every link leads to a file that is there or to an id of the page, which are all different."""
    reader = Reader(html)
    assert reader.outside == []
    assert len(reader.ids) == len(set(reader.ids))
    targets = {*reader.links, *re.findall(r'<img src="([^"]+)"', html)}
    inside = {target[1:] for target in targets if target.startswith("#")}
    assert inside <= set(reader.ids)
    files = [beside / unquote(target) for target in targets if not target.startswith("#")]
    assert files
    assert [path for path in files if not path.is_file()] == []
    return reader


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two experiments of a paper, one of our own, and notes with a figure; what reproduce leaves in between."""
    stored(tmp_path / "hui2022" / "fig6", "hui2022/fig6")
    stored(tmp_path / "hui2022" / "fig3")
    stored(tmp_path / "findings" / "own", "findings/own", paper="collapselab")
    (tmp_path / "hui2022" / "README.md").write_text("# What holds\n")
    notes = tmp_path / "profile"
    notes.mkdir()
    (notes / "README.md").write_text("text\n# An MLP before and after\n")
    png(notes / "profile.png")
    return tmp_path


def test_experiments_are_found_at_any_depth_in_the_order_of_the_papers(root: Path) -> None:
    found = read_results(root, ["hui2022/fig3", "hui2022/fig6"])
    assert [one.record.experiment for one in found.experiments] == [
        "hui2022/fig3",
        "hui2022/fig6",
        "findings/own",
    ]
    assert [(one.folder.name, one.title) for one in found.notes] == [("profile", "An MLP before and after")]
    assert found.problems == []
    (figure,) = found.experiments[0].figures
    assert (figure.path.name, figure.width, figure.height) == ("fig3.png", 4, 2)
    assert figure.pdf == root / "hui2022" / "fig3" / "fig3.pdf"


def test_a_folder_of_one_experiment_is_shown_too(root: Path) -> None:
    found = read_results(root / "hui2022" / "fig3")
    assert len(found.experiments) == 1
    check_links(results_page(found, root / "hui2022" / "fig3"), root / "hui2022" / "fig3")


def _unreadable(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder.chmod(0)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda folder: (folder / "experiment.json").write_text("{"),
            r"experiment\.json: not an experiment's record",
        ),
        (
            lambda folder: (folder / "verdicts.json").write_text("[{}]"),
            r"verdicts\.json: not a list of verdicts",
        ),
        (
            lambda folder: (folder / "verdicts.json").unlink(),
            r"verdicts\.json: is missing; restore it, or run",
        ),
        (
            lambda folder: (folder / "rows.csv").write_text("job,seed\n"),
            r"rows\.csv: changed since it was written",
        ),
        (lambda folder: (folder / "fig3.png").write_text("<svg>"), r"fig3\.png: not a PNG image"),
        (_unreadable, r"fig6.*: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line_and_the_rest_is_shown(
    root: Path, damage: Callable[[Path], object], problem: str
) -> None:
    damage(root / "hui2022" / "fig6")
    found = read_results(root)
    assert [one.record.experiment for one in found.experiments] == ["findings/own", "hui2022/fig3"]
    (line,) = found.problems
    assert re.search(problem, line)
    assert "\n" not in line
    reader = check_links(results_page(found, root), root)
    assert line in reader.words
    outcome = run("results", root)
    assert (outcome.code, outcome.err) == (0, f"not shown: {line}\n")


def test_every_claim_is_in_the_table_and_beside_its_figure(root: Path) -> None:
    html = results_page(read_results(root), root)
    reader = check_links(html, root)
    for text in (
        "Results of 3 experiments", "Train variance converges to 0.", "preset cpu", "seeds 3 (0-2)", "time 2.0 h over all runs",
        "machine Some CPU", "finished 2026-11-28", "Differences from the paper: 2,000 training images.", PAPER,
        "Findings of this project", "Scale: 2,000 training images.", "Train variance at the end: 0.02, 0.025, 0.018 (seeds 0-2)",
    ):  # fmt: skip
        assert text in reader.words, text
    assert reader.words.count("Two and two are four.") == 6, (
        "in the table and on a card, of three experiments"
    )
    assert "Notes on these results" in reader.words
    table = html[html.index('<table class="claims">') : html.index("</table>")]
    assert table.count('class="verdict holds"') == 6
    assert reader.cells.count("2 of 2 seeds") == 3


def test_few_seeds_no_valid_seed_and_unfinished_experiments_say_so(tmp_path: Path) -> None:
    claims = (finding((0.02, 0.3)), finding((0.2,), void={0: "train accuracy 0.98"}))
    stored(tmp_path / "a", judged=claims, scale="smoke")
    stored(tmp_path / "b", status="running")
    stored(tmp_path / "c", judged=())
    stored(tmp_path / "d", judged=claims)
    reader = check_links(results_page(read_results(tmp_path), tmp_path), tmp_path)
    for text in (
        "met in 1 of 2",
        "not judged",
        "no valid seed",
        "not finished",
        "no claims",
        "claims about networks are not judged",
    ):
        assert text in reader.words, text
    assert "claims judged 2" in reader.words, "those of the scale smoke do not count"


def test_links_are_relative_to_the_page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = tmp_path_factory.mktemp("elsewhere") / "page.html"
    write_results_page(page, read_results(root))
    html = page.read_text(encoding="utf-8")
    check_links(html, page.parent)
    write_results_page(page, read_results(root))
    assert page.read_text(encoding="utf-8") == html


def test_a_page_of_something_else_is_not_replaced(root: Path) -> None:
    (root / "index.html").write_text("<p>mine</p>")
    with pytest.raises(InputError, match=r"index\.html: exists and is not a page of results; move it away"):
        write_results_page(root / "index.html", read_results(root))
    assert_refused(run("results", root), "index.html", "move it away")
    assert (root / "index.html").read_text() == "<p>mine</p>"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    texts = dict.fromkeys(("title", "question", "reduced", "paper", "where"), HOSTILE)
    stored(tmp_path / "a b#?<i>", judged=[finding((0.02, 0.02, 0.02), statement=HOSTILE)], **texts)
    stored(tmp_path / "a-b--<i>", judged=[])
    reader = check_links(results_page(read_results(tmp_path), tmp_path, {HOSTILE: HOSTILE}), tmp_path)
    assert reader.text.count(HOSTILE) >= 8


def test_the_command_prints_every_claim_and_where_the_page_is(root: Path) -> None:
    outcome = run("results", root)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"hui2022/fig6 (cpu, 3 seeds, {root / 'hui2022' / 'fig6'}): Title of hui2022/fig6\n" in outcome.out
    assert outcome.out.count("  HOLDS         Two and two are four.\n") == 3
    assert outcome.out.endswith(f"Page: {root / 'index.html'}\n")
    other = run("results", root, "--output", root / "other.html")
    assert other.out.endswith(f"Page: {root / 'other.html'}\n")
    assert (root / "other.html").read_text() == (root / "index.html").read_text()


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    assert_refused(run("results", tmp_path / "none"), f"{tmp_path / 'none'}: no such folder")
    assert_refused(run("results", tmp_path), f"{tmp_path}: contains no experiments")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "experiment.json").write_text("{")
    assert_refused(run("results", tmp_path), "not an experiment's record")
    assert not (tmp_path / "index.html").exists()


def test_the_results_of_this_repository_are_shown_completely() -> None:
    found = read_results(RESULTS, list(experiments()))
    assert found.problems == []
    folders = {path.parent for path in RESULTS.rglob("experiment.json")}
    assert {one.folder for one in found.experiments} == folders
    page = results_page(found, RESULTS)
    reader = check_links(page, RESULTS)
    assert len(page.encode()) < 1_500_000
    assert len(re.findall(r'<td class="verdict \w*">', page)) == sum(
        len(one.judgements) for one in found.experiments
    )
    assert "nan" not in reader.words.lower().split()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_fits_every_screen_and_shows_its_figures(root: Path, browser: Any, screen: str) -> None:
    found = read_results(root)
    (root / "index.html").write_text(results_page(found, root), encoding="utf-8")
    context = browser.new_context(offline=True, **SCREENS[screen])
    view, said = context.new_page(), []
    view.on("console", lambda message: said.append(message.text))
    view.goto((root / "index.html").as_uri(), timeout=60_000)
    check_nothing_scrolls_sideways(view)
    for image in view.query_selector_all("img"):
        image.scroll_into_view_if_needed()
        view.wait_for_function(
            "image => image.complete && image.naturalWidth === 4", arg=image, timeout=10_000
        )
    assert said == []
    context.close()


def test_no_results_at_all_is_a_page_too() -> None:
    reader = Reader(results_page(StoredResults(Path()), failures={"hui2022/fig3": "data are missing"}))
    assert "hui2022/fig3: data are missing" in reader.words
