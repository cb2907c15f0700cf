"""Memory of a profile: what is said before the first pass, against what tensors take."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor, nn

import collapselab
from collapselab import InputError
from collapselab.probes import free_memory, memory, plan
from collapselab.statistics import gathering, shared
from memory_tracking import TrackedMemory

# Said over taken. Sums that a small data set does not need yet, those of blocks with few rows per class, and work space
# that overlaps are counted in full; the features of a batch and copies of means while labels are renumbered are not.
_LEAST, _MOST = 0.85, 1.55
_CPU = torch.device("cpu")


class _Wide(nn.Module):
    """Layers that read all features, unchanged, and a classifier that reads a few."""

    def __init__(self, num_layers: int, num_classes: int) -> None:
        super().__init__()
        self.wide = nn.ModuleList(nn.Conv1d(1, 1, 1) for _ in range(num_layers))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for layer in self.wide:
            x = layer(x)
        return self.classifier(x[:, 0, :8])


def _batches(dim: int, num_classes: int, num_samples: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = torch.randn(num_samples, dim, dtype=dtype), torch.arange(num_samples) % num_classes
    return list(zip(inputs.split(100), labels.split(100), strict=True))


@pytest.fixture(autouse=True)
def _own_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scratch of statistics that other tests still hold."""
    monkeypatch.setattr(shared, "_scratch", WeakValueDictionary())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every total that is computed."""
    totals = list[int]()
    peak_bytes = memory.peak_bytes

    def noted(*args: Any, **kwargs: Any) -> int:
        totals.append(peak_bytes(*args, **kwargs))
        return totals[-1]

    monkeypatch.setattr(memory, "peak_bytes", noted)
    return totals


@pytest.mark.usefixtures("reads_twice")  # features are kept only in memory that is free
@pytest.mark.parametrize(
    ("dim", "num_classes", "num_samples", "scatter", "dtype", "with_test", "known"),
    [
        (3000, 10, 700, "sketch", torch.float32, True, True),
        (3000, 10, 700, "sketch", torch.float32, False, False),
        (3000, 10, 700, "sketch", torch.float64, False, True),
        (3000, 10, 700, "trace", torch.float32, True, True),
        (8000, 20, 700, "trace", torch.float32, False, False),
        (300, 5, 700, "per_class", torch.float32, True, False),
        (300, 5, 700, "full", torch.float32, True, True),
        (300, 5, 700, "full", torch.float32, False, False),
    ],
)
def test_memory_is_known_before_the_first_pass(
    dim: int,
    num_classes: int,
    num_samples: int,
    scatter: Any,
    dtype: torch.dtype,
    with_test: bool,
    known: bool,
    said: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "EAGER_DEVICES", frozenset({"cpu"}))
    if scatter == "full":
        monkeypatch.setattr(plan, "MAX_PER_CLASS_ENTRIES", 0)  # one per class would fit
    taken = _taken(
        _Wide(3, num_classes), dim, num_classes, num_samples, scatter, dtype, with_test=with_test, known=known
    )
    assert _LEAST < said[-1] / taken < _MOST


@pytest.mark.usefixtures("reads_twice")  # features are kept only in memory that is free
@pytest.mark.parametrize("scatter", ["trace", "sketch", "full"])
def test_memory_of_gathered_rows(scatter: Any, said: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "EAGER_DEVICES", frozenset())
    monkeypatch.setattr(gathering, "_CHUNK_BYTES", 2**21)  # one that so few samples fill
    monkeypatch.setattr(plan, "MAX_PER_CLASS_ENTRIES", 0)
    dim = 600 if scatter == "full" else 2000
    taken = _taken(_Wide(3, 10), dim, 10, 1200, scatter, torch.float32, with_test=True, known=True)
    assert _LEAST < said[-1] / taken < _MOST


def _taken(
    model: nn.Module,
    dim: int,
    num_classes: int,
    num_samples: int,
    scatter: Any,
    dtype: torch.dtype,
    *,
    with_test: bool,
    known: bool,
) -> int:
    """Return the most bytes that tensors take in a profile, after planning."""
    torch.manual_seed(0)
    model, batches = model.to(dtype), _batches(dim, num_classes, num_samples, dtype)
    counts = [num_samples // num_classes] * num_classes if known else None
    tracked = TrackedMemory()

    def begin(what: str, done: int, total: int) -> None:
        if what == "train: class statistics" and done == 100:
            tracked.peak = 0  # planning is over, and everything of the first pass still to come

    with tracked:
        found = collapselab.profile(
            model, batches, batches if with_test else None, layers="wide.*", scatter=scatter, class_counts=counts,
            progress=begin,
        )  # fmt: skip
    assert {layer.scatter for layer in found.layers} == {scatter}
    return tracked.peak


def _profile(monkeypatch: pytest.MonkeyPatch, free: int | None, **options: Any) -> tuple[Any, _Wide]:
    model = _Wide(3, 2)
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    return collapselab.profile(model, _batches(3000, 2, 200, torch.float32), **options), model


def test_scratch_is_counted_in_the_dtype_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = list[int]()
    monkeypatch.setattr(memory, "peak_bytes", lambda _, taken, **__: scratch.append(taken) or taken)
    for dtype in (torch.float32, torch.float64):
        model = _Wide(1, 2).to(dtype)
        collapselab.profile(model, _batches(3000, 2, 200, dtype), layers="wide.*", scatter="trace")
    # 2^20 // 3000 rows: beside their centres in float32, in place of them in float64.
    assert scratch == [2 * 4 * (2**20 // 3000) * 3000, 8 * (2**20 // 3000) * 3000]


def test_too_much_is_refused_before_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = list[str]()
    with pytest.raises(InputError) as caught:
        _profile(monkeypatch, 2**20, progress=lambda what, *_: passes.append(what))
    message = str(caught.value)
    assert len(message) <= 300
    for part in (
        "class statistics take up to",
        "cpu has 0.000977 GiB free",
        "wide.2",
        'reduce="gap"',
        "layers=",
    ):
        assert part in message
    assert 'scatter="trace"' in message
    assert "stats_device" not in message  # they are on the host already
    assert not passes


def test_how_much_is_needed_is_said_before_means_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MAX_MEANS_BYTES", 8 * 2 * 3000 - 1)
    with pytest.raises(InputError, match=r"^class statistics take up to .*; largest: classifier"):
        _profile(monkeypatch, 2**20)
    with pytest.raises(InputError, match=r"^wide\.0 reads 3000 features: the means of 2 classes"):
        _profile(monkeypatch, None)


def test_only_what_helps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        _profile(monkeypatch, 2**15, reduce="gap", scatter="trace", layers="wide.*")
    assert str(caught.value).endswith("; use fewer layers with layers=")


def test_the_host_is_named_where_a_gpu_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {"cuda": 2**20, "cpu": 2**34}
    monkeypatch.setattr(memory, "free_memory", lambda device: rooms[device.type])
    gpu = torch.device("cuda")
    checked = memory._check

    def on_gpu(plan: Any, create: Any, device: torch.device, **known: Any) -> str | None:
        return checked(plan, create, gpu, **known)

    monkeypatch.setattr(memory, "_check", on_gpu)
    with pytest.raises(InputError, match=r'cuda has 0.000977 GiB free; .*stats_device="cpu" \(16 GiB free\)'):
        collapselab.profile(_Wide(3, 2), _batches(3000, 2, 200, torch.float32))


def test_a_warning_from_half_of_the_free_memory_on(monkeypatch: pytest.MonkeyPatch, said: list[int]) -> None:
    _profile(monkeypatch, None)
    # Results are on the host, too: float64 means of 2 classes.
    total = said[-1] + 3 * 8 * 2 * 3000 + 8 * 2 * 8
    for room, warned in ((2 * total, False), (2 * total - 2, True)):
        found, _ = _profile(monkeypatch, room)
        assert (
            any(text.startswith("memory: class statistics take up to") for text in found.warnings) == warned
        )
    with pytest.raises(InputError, match="class statistics take up to"):
        _profile(monkeypatch, total - 1)


def test_classes_that_the_first_batch_lacks_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that yields one class after the other, and memory for few of them."""
    torch.manual_seed(0)
    labels = torch.arange(300) // 3
    rows = torch.randn(300, 2000) + labels[:, None]
    monkeypatch.setattr(memory, "free_memory", lambda _: 3 * 2**23)
    batches = list(zip(rows.split(6), labels.split(6), strict=True))
    model = nn.Linear(2000, 100)
    found = collapselab.profile(model, batches, metrics=["within_trace"], scatter="trace")
    # 28 C p of sums, 64 C p while they are evaluated, 8 C p of results, and 8 MiB of scratch.
    total = f"{(100 * 2000 * 100 + 2**23) / 2**30:.3g}"
    assert [text.partition(" GiB")[0] for text in found.warnings if text.startswith("memory")] == [
        f"memory: if all 100 classes occur, class statistics take up to {total}"
    ]
    assert len(found.classes) == 100
    # In batches in which all classes may be, there is too much before the first pass.
    order = torch.randperm(300)
    batches = [(rows[order], labels[order])]
    with pytest.raises(InputError, match=r"^class statistics take up to"):
        collapselab.profile(model, batches, metrics=["within_trace"], scatter="trace")


def test_statistics_on_a_named_device_are_the_same() -> None:
    torch.manual_seed(0)
    model, batches = _Wide(2, 2), _batches(90, 2, 200, torch.float32)
    one, other = (collapselab.profile(model, batches, stats_device=place) for place in (None, "cpu"))
    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("gpu", "stats_device='gpu': "),
        ("meta", "stores no data"),
        (3.5, "stats_device=float: "),
        ("cuda:99", "stats_device='cuda:99': "),
    ],
)
def test_devices_that_are_none_are_refused(place: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        collapselab.profile(_Wide(1, 2), _batches(9, 2, 4, torch.float32), stats_device=place)


# ---------------------------------------------------------------- free memory


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7 kB\n"}, 7 * 1024),
        (  # version 2, in a container
            {
                "proc/meminfo": "MemAvailable: 7 kB\n",
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "4000\n",
                "sys/fs/cgroup/memory.current": "3000\n",
                "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 500\n",
            },
            1500,
        ),
        (  # version 2: a group without a limit within one that has one
            {
                "proc/self/cgroup": "0::/outer/inner\n",
                "sys/fs/cgroup/outer/inner/memory.max": "max\n",
                "sys/fs/cgroup/outer/memory.max": "4000\n",
                "sys/fs/cgroup/outer/memory.current": "5000\n",
                "sys/fs/cgroup/outer/memory.stat": "",
            },
            0,
        ),
        (  # version 1, with the path of the host
            {
                "proc/meminfo": "MemAvailable: 7 kB\n",
                "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 10",
            },
            3010,
        ),
    ],
    ids=["unknown", "no groups", "version 2", "nested groups", "version 1"],
)
def test_free_memory_of_the_host(
    files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, files)
    monkeypatch.setattr(free_memory, "_ROOT", tmp_path)
    assert free_memory.free_memory(_CPU) == expected


def test_other_devices_do_not_tell() -> None:
    assert free_memory.free_memory(torch.device("meta")) is None
