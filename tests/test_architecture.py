"""The structure that docs/architecture.md describes, read out of the source: floors, sizes, repetitions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "collapselab"
# A module or package imports only from floors below its own.
FLOORS = (
    (
        "errors",
        "lazy",
        "digests",
        "text",
        "choices",
        "numerics",
        "randomness",
        "curves",
        "inference",
        "plotting",
    ),
    ("decompositions", "checks", "names", "frames", "distributed", "storage", "user_code"),
    ("statistics",),
    ("metrics",),
    ("passes", "tables"),
    ("features",),
    ("probes",),
    ("data", "models"),
    ("records",),
    ("training", "transfer", "integrations"),
    ("report",),
    ("experiments", "ranking", "views"),
    ("papers", "findings"),
    ("registry", "results"),
    ("cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PAPERS = ("hui2022", "xu2023", "rangamani2023")
DRAWING = {"matplotlib": "report/paper.py", "plotly": "report/screen.py"}
MOST_LINES, MOST_LINES_OF_A_FIGURE = 400, 120
# What all papers share, and what one paper adds to it: about 120 lines a figure, 350 for its transfer and 350 for its
# constructions, and what figures have in common (60 lines: data sets that only probes read, figures for notebooks, branches, how well
# every network does). Engines count on their own: how runs are spread over processes and machines
# does not grow with papers. One for this process takes 80 lines, one for a cluster, where anything may die, 300.
ENGINES = "experiments/engines"
MOST_LINES_OF_ROOMS = {("experiments", "report"): 3760, (ENGINES,): 400, ("papers/hui2022",): 1800}
LONG_FUNCTION, REPETITION = 20, 10

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The top-level module or package that a file belongs to; empty for the package's own two files."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "" if parts[-1].startswith("__") and len(parts) == 1 else parts[0]


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, wherever it does."""
    yield from names_imported(path.read_text(encoding="utf-8"))


def names_imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Rooms of this package that a file imports from, with the full name."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "collapselab" and len(parts) > 1 and parts[1] in FLOOR_OF:
            yield parts[1], name


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in FILES} - {""}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_floor_imports_only_from_floors_below_it(path: Path) -> None:
    room = room_of(path)
    if not room:  # the public names come from everywhere, and are loaded when first used
        return
    wrong = [name for other, name in own_imports(path) if other != room and FLOOR_OF[other] >= FLOOR_OF[room]]
    assert not wrong, f"{room} (floor {FLOOR_OF[room]}) imports {wrong}"


def test_the_report_does_not_import_training() -> None:
    found = [
        name
        for path in (SOURCE / "report").rglob("*.py")
        for room, name in own_imports(path)
        if room == "training"
    ]
    assert not found


def test_modules_do_not_import_each_other_in_circles() -> None:
    modules = {
        ".".join(("collapselab", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = set()
        for name in imports(path):
            found = next((part for part in (name, name.rpartition(".")[0]) if part in modules), None)
            # A package's own names come from its modules: `a.b` importing from `a` is what matters, not the reverse.
            if found and found != module and path.name != "__init__.py":
                targets.add(found)
        graph[module] = targets
    circles = [
        (one, other)
        for one, targets in graph.items()
        for other in targets
        if one < other and one in graph[other]
    ]
    assert not circles


def test_nothing_below_the_papers_names_one() -> None:
    found = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in FILES
        if room_of(path) not in ("papers", "registry", "cli")
        for name in PAPERS
        if name in path.read_text(encoding="utf-8")
    ]
    assert not found


@pytest.mark.parametrize("library", DRAWING)
def test_each_drawing_library_is_imported_in_one_module(library: str) -> None:
    found = {
        str(path.relative_to(SOURCE))
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert found == {DRAWING[library]}


def options_in_messages(source: str) -> list[str]:
    """Texts of an error or warning that name an option of the command line, such as `--out`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = (node for node in calls if re.search(r"(Error|warn)$", ast.unparse(node.func)))
    texts = (part.value for node in named for part in ast.walk(node) if isinstance(part, ast.Constant))
    return [text for text in texts if isinstance(text, str) and re.search(r"(?<![-\w])--[a-z]", text)]


def test_errors_of_the_library_speak_python() -> None:
    """`out=`, not `--out`: the command line translates them into its options."""
    found = {
        str(path.relative_to(SOURCE)): texts
        for path in FILES
        if room_of(path) != "cli" and (texts := options_in_messages(path.read_text(encoding="utf-8")))
    }
    assert not found
    assert options_in_messages('raise InputError(f"{path}: give --out {name}")') == [": give --out "]


# ---------------------------------------------------------------- sizes


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_are_short() -> None:
    long = {str(path.relative_to(SOURCE)): _lines(path) for path in FILES if _lines(path) > MOST_LINES}
    assert not long


def test_a_figure_of_a_paper_is_a_short_file() -> None:
    long = {
        str(path.relative_to(SOURCE)): _lines(path)
        for path in (SOURCE / "papers").rglob("*.py")
        if path.stem.startswith(("fig", "sec", "footnote", "table")) and _lines(path) > MOST_LINES_OF_A_FIGURE
    }
    assert not long


@pytest.mark.parametrize("rooms", MOST_LINES_OF_ROOMS, ids=" and ".join)
def test_the_upper_floors_stay_small(rooms: tuple[str, ...]) -> None:
    files = [path for room in rooms for path in (SOURCE / room).rglob("*.py")]
    files = [path for path in files if rooms == (ENGINES,) or SOURCE / ENGINES not in path.parents]
    assert 0 < sum(map(_lines, files)) <= MOST_LINES_OF_ROOMS[rooms]


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert function.end_lineno is not None
    docstring = 0
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        assert first.end_lineno is not None
        docstring = first.end_lineno - first.lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


def test_nine_functions_in_ten_are_short() -> None:
    lengths = sorted(
        _length(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[int(0.9 * len(lengths))] <= LONG_FUNCTION


def test_nothing_is_written_twice() -> None:
    """No run of ten equal lines; blank lines and indentation do not count."""
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in FILES:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line]
        for start in range(len(lines) - REPETITION + 1):
            places[tuple(lines[start : start + REPETITION])].append(f"{path.relative_to(SOURCE)}")
    repeated = sorted({tuple(where) for where in places.values() if len(where) > 1})
    assert not repeated


def test_imports_are_found_inside_functions_and_under_type_checking() -> None:
    source = (
        "if TYPE_CHECKING:\n    from collapselab.cli import app\ndef f():\n    import collapselab.registry\n"
    )
    assert list(names_imported(source)) == ["collapselab.cli.app", "collapselab.registry"]
