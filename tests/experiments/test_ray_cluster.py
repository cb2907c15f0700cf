"""Runs on a real Ray cluster of two nodes on this machine: killed drivers and nodes, and what tasks say on a node.

Everything runs in processes of its own, on the loopback interface.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_driver
import slow_network
import tiny_experiment
import torch
from watching import request

from cli_runner import assert_refused, run
from collapselab import InputError
from collapselab.data.names import COPIES_VARIABLE
from collapselab.experiments.engines import ray_cluster
from collapselab.experiments.engines.ray_cluster import RayCluster
from collapselab.experiments.grid import Grid
from collapselab.experiments.runner import reproduce
from collapselab.records.experiment import RECORD
from collapselab.training import RunFolder

HERE = Path(__file__).parent
# Without this, Ray turns the loopback address into that of another interface.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    slow_network.SECONDS: "0.01",
}
# Prints the address of the cluster; removes a node or everything when told so.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
options = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "include_dashboard": False}
checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
cluster = Cluster(initialize_head=True, head_node_args=options | {"_system_config": checks})
node = cluster.add_node(**options)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(node, allow_graceful=False)
print("removed", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def _started(*command: object, **options: Any) -> subprocess.Popen[str]:
    arguments = [sys.executable, *map(str, command)]
    return subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen[str]]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'collapselab[ray]'")
    process = _started("-c", CLUSTER, stdin=subprocess.PIPE)
    yield process
    process.communicate(timeout=300)


class Driver:
    """A process that reproduces the experiment on the cluster."""

    def __init__(self, out: Path, address: str) -> None:
        self.process = _started(HERE / "ray_driver.py", out, address)
        self.lines: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read what it prints up to a line that contains the text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        assert self.process.stderr is not None
        pytest.fail(f"ended before {text!r}: {self.lines} {self.process.stderr.read()}")


def _starts(out: Path) -> dict[str, list[int]]:
    """The step at each start of every run."""
    return {
        "/".join(path.parts[-3:-1]): [slot["from_step"] for slot in json.loads(path.read_text())["slots"]]
        for path in out.glob("runs/*/*/run.json")
    }


def _statuses(out: Path) -> dict[str, str]:
    return {
        "/".join(path.parts[-3:-1]): json.loads(path.read_text())["status"]
        for path in out.glob("runs/*/*/run.json")
    }


def _saved(out: Path) -> dict[str, int]:
    """The step of the state of every run that has one."""
    folders = {"/".join(path.parts[-2:]): RunFolder(path) for path in out.glob("runs/*/*")}
    states = {name: folder.read_trainer() for name, folder in folders.items()}
    return {name: state["step"] if state is not None else 0 for name, state in states.items()}


def _lost(starts: dict[str, list[int]], before: dict[str, list[int]], saved: dict[str, int]) -> list[str]:
    """Runs that were started again before the step that they had saved."""
    return [
        name
        for name, steps in starts.items()
        if any(step < saved.get(name, 0) for step in steps[len(before.get(name, [])) :])
    ]


@pytest.mark.slow
def test_killed_nodes_and_drivers_and_ctrl_c_cost_nothing(
    tmp_path: Path, cluster: subprocess.Popen[str]
) -> None:
    """One test, as a cluster takes seconds to start, and so do the workers of every driver."""
    out = tmp_path / "out"
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    alone = reproduce(ray_driver.request(tmp_path / "alone"))
    address = cluster.stdout.readline().strip()

    first = Driver(out, address)
    first.wait_for("2 nodes with 2 CPUs")
    while sorted(_statuses(out).values()) != ["running", "running"] or list(_saved(out).values()).count(0):
        first.wait_for("progress")
    running, begun_with = _starts(out), _saved(out)
    cluster.stdin.write("remove\n")
    cluster.stdin.flush()
    first.wait_for("lost its worker")
    first.wait_for("ended first")
    first.process.kill()
    first.process.communicate()
    before, saved = _starts(out), _saved(out)
    assert not _lost(before, running, begun_with)
    finished = {name: before[name] for name, status in _statuses(out).items() if status == "finished"}
    assert finished

    second = Driver(out, address)
    second.wait_for("1 node with 1 CPU")
    while _starts(out) == before:
        second.wait_for("progress")
    second.process.send_signal(signal.SIGINT)
    output, errors = second.process.communicate(timeout=300)
    assert "note stopping" in output
    assert "RunInterrupted: interrupted" in errors
    assert not _lost(_starts(out), before, saved)
    begun = [name for name, starts in _starts(out).items() if starts != before.get(name)]
    assert {_statuses(out)[name] for name in begun} <= {"stopped", "finished"}, "the state is saved"

    before, saved = _starts(out), _saved(out)
    reproduce(ray_driver.request(out))  # in this process: engines may take turns
    starts = _starts(out)
    assert {name: starts[name] for name in finished} == finished, "nothing finished is run again"
    assert not _lost(starts, before, saved)
    assert any(steps[-1] > 0 for steps in starts.values())
    for name in ("rows.csv", "verdicts.json", "fig1.png"):
        assert (out / name).read_bytes() == (alone.folder / name).read_bytes(), name
    for name in starts:
        weights, others = (
            RunFolder(folder / "runs" / name).read_weights(ray_driver.STEPS) for folder in (out, alone.folder)
        )
        assert all(torch.equal(weights[key], others[key]) for key in others)


# ---------------------------------------------------------------- a task, without a cluster


class News:
    """Takes what a task tells the driver."""

    def __init__(self) -> None:
        self.items: list[tuple[int, int]] = []

    def put_nowait(self, item: tuple[int, int]) -> None:
        self.items.append(item)


def _task(out: Path, news: object = None, **changes: Any) -> tuple[str, str, float]:
    recipe = tiny_experiment.recipe(0)
    options: dict[str, Any] = {
        "threads": 1, "copies": {}, "cwd": os.getcwd(), "has_gpu": True, "news": news or News(), "number": 7,
    }  # fmt: skip
    return ray_cluster._run_here(
        changes.pop("recipe", recipe), out, out / "runs" / "first" / "seed-0", **(options | changes)
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of an experiment that has begun."""
    (tmp_path / RECORD).write_text("{}")
    return tmp_path


def test_a_task_does_the_run_and_tells_its_steps(out: Path) -> None:
    news = News()
    how, text, seconds = _task(out, news)
    assert (how, text) == ("ended", "steps")
    assert seconds > 0
    assert news.items[0] == (7, 0)
    record = RunFolder(out / "runs" / "first" / "seed-0").read_run()
    assert record is not None
    assert record.recipe == tiny_experiment.recipe(0)


def test_a_run_in_other_hands_is_looked_at_again(out: Path) -> None:
    folder = RunFolder(out / "runs" / "first" / "seed-0")
    folder.create()
    with folder.exclusive():
        assert _task(out)[0] == "again"


def test_a_node_without_the_shared_folder_says_so(tmp_path: Path) -> None:
    how, text, _ = _task(tmp_path / "out")
    assert how == "error"
    assert text.startswith("node ")
    assert f"{tmp_path / 'out'} is not there; write to a folder that all nodes share" in text


def test_a_node_without_the_data_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COPIES_VARIABLE, raising=False)
    recipe = tiny_experiment.recipe(0).with_changes({"data.name": "mnist"})
    how, text, _ = _task(out, recipe=recipe, copies={"mnist": out / "mnist"})
    assert how == "error"
    assert (
        f"mnist={out / 'mnist'} is not there; use a path that all nodes share, or set COLLAPSELAB_DATA"
        in text
    )


def test_a_node_finds_its_own_copy_where_the_path_of_the_driver_does_not_exist(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "own").mkdir()
    monkeypatch.setenv(COPIES_VARIABLE, f"mnist={out / 'own'}")
    assert ray_cluster._copies_here({"mnist": out / "none"}, "mnist") == {"mnist": out / "own"}
    (out / "shared").mkdir()
    assert ray_cluster._copies_here({"mnist": out / "shared"}, "mnist") == {"mnist": out / "shared"}


def test_threads_are_those_of_the_recipe_or_of_the_start_or_of_the_driver(tmp_path: Path) -> None:
    (run,) = Grid(tmp_path, request(tmp_path).experiment.presets["smoke"], [0], only=["first"]).all()
    assert ray_cluster._threads(run) == 1
    free = Grid(
        tmp_path, request(tmp_path).experiment.presets["smoke"], [0], changes={"num_threads": None}
    ).all()[0]
    assert ray_cluster._threads(free) == torch.get_num_threads()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'collapselab\[ray\]'"):
        reproduce(request(tmp_path / "out", engine=RayCluster()))


def test_an_address_where_nothing_answers_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ray:
        def init(self, **_: object) -> None:
            raise ConnectionError("could not connect\nto it")

    monkeypatch.setitem(sys.modules, "ray", Ray())
    message = r"no Ray cluster answers at a:1 \(could not connect to it\); start one as docs/cluster.md says, or check address="
    with pytest.raises(InputError, match=message):
        reproduce(request(tmp_path / "out", engine=RayCluster("a:1")))
    refused = run(
        "reproduce", "hui2022/fig6", "--engine", "ray", "--address", "a:1", "--out", tmp_path / "cli"
    )
    assert_refused(refused, "no Ray cluster answers at a:1", "or check --address")
