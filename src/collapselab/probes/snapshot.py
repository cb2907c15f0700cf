"""The state of objects of a user, found by walking over their attributes, and put back."""

from __future__ import annotations

import copy
import functools
import io
import operator
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from collapselab.probes.storages import CopiedTensors
from collapselab.randomness import GENERATORS, generator_state

_MOST_OBJECTS = 50_000
_MOST_ARRAY_BYTES = 2**28
# Longer containers are put back, but not searched: file names and labels, not generators.
_MOST_SEARCHED = 1_000
# Arrays may take so many times the limit of a tensor, all together.
_ARRAYS_PER_LIMIT = 8
_MISSING = object()
# Puts something back that differs, and returns the names of what did.
PutBack = Callable[[], Iterable[str]]
_CONTAINERS = (list, dict, set, deque, tuple, frozenset)
_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.CodeType,
    torch.dtype, torch.device, torch.layout, np.generic, np.dtype,
)  # fmt: skip
# Machinery with state of its own, which may change at any time: threads, loggers, trainers, wrapped processes.
_PLAIN_TYPES = frozenset(_PLAIN)  # told at once, as most values are; their subclasses are told later
_MACHINERY = frozenset(sys.stdlib_module_names) - {"collections", "functools", "types", "random"} | {
    "IPython", "_pytest", "collapselab", "comet_ml", "deepspeed", "jax", "lightning", "lightning_fabric", "mlflow",
    "neptune", "pandas", "pluggy", "pyarrow", "pytorch_lightning", "ray", "tensorboard", "tensorboardX", "tensorflow",
    "torch", "tqdm", "wandb",
}  # fmt: skip
_TORCH_DATA = ("torch.utils.data.dataloader", "torch.utils.data.dataset", "torch.utils.data.sampler")
_PARALLEL = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "torch.jit", "deepspeed")
# Of a module: hooks belong to whoever registers them.
_NOT_RESTORED = frozenset(vars(nn.Module())) - {"training", "_non_persistent_buffers_set"}


class Snapshot:
    """The state that is reachable from some objects.

    Found are attributes and slots of objects and their classes, lists, dictionaries and sets; tensors and arrays; random
    generators, also those that closures, bound methods and partials hold and that methods read as global variables;
    positions of files; extra states of modules. Not entered are objects of engines (trainers, loggers, process groups),
    extension types, and containers of more than 1,000 entries (these are restored, but their entries are not).

    Args:
        roots: objects by name.
        most_bytes: larger tensors and arrays are not copied; see `CopiedTensors`.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]], most_bytes: int | None = None) -> None:
        self._array_bytes = _MOST_ARRAY_BYTES if most_bytes is None else _ARRAYS_PER_LIMIT * most_bytes
        self._tensors = CopiedTensors(most_bytes)
        self._before: list[tuple[str, PutBack]] = []  # attributes and containers
        self._after: list[tuple[str, PutBack]] = []  # what needs these to be in place
        self._seen: dict[int, Any] = {}  # the objects too, so that no other gets their id
        self._waiting = deque(roots)
        while self._waiting and len(self._seen) < _MOST_OBJECTS:
            self._visit(*self._waiting.popleft())
        self._waiting.clear()
        self._tensors.copy()

    def restore(self) -> tuple[list[str], list[str]]:
        """Put everything back that differs.

        Returns:
            Names of what was changed, and of what was and could not be restored.
        """
        changed, lost = _run(self._before)
        for names, failures in (self._tensors.restore(), _run(self._after)):
            changed += names
            lost += failures
        return list(dict.fromkeys(changed)), lost

    def _visit(self, place: str, value: Any) -> None:
        if id(value) in self._seen or type(value) in _PLAIN_TYPES or isinstance(value, _PLAIN):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensors.add(value, place)
            with suppress(RuntimeError):  # views that autograd has given up, as FSDP leaves them
                self._before.append((place, _flags(value)))
        elif isinstance(value, np.ndarray):
            self._visit_array(place, value)
        elif isinstance(value, GENERATORS):
            self._after.append((place, _silent(generator_state(value))))
        elif isinstance(value, _CONTAINERS):
            self._visit_container(place, value)
        elif isinstance(value, nn.Module):
            self._visit_module(place, value)
        elif isinstance(value, io.IOBase):
            self._visit_file(place, value)
        else:
            with suppress(Exception):  # objects of users can raise anything when looked at
                self._visit_object(place, value)

    def _visit_array(self, place: str, array: npt.NDArray[Any]) -> None:
        if array.dtype.hasobject or not array.flags.writeable:
            return
        if array.nbytes <= self._array_bytes:
            self._array_bytes -= array.nbytes
            self._before.append((place, _restored_array(place, array)))

    def _visit_container(self, place: str, value: Any) -> None:
        if not isinstance(value, tuple | frozenset):
            self._before.append((place, _restored_items(place, value)))
        names = value if isinstance(value, dict) else range(len(value))
        self._wait_named(place, zip(names, _entries(value), strict=False))

    def _visit_module(self, place: str, module: nn.Module) -> None:
        own = vars(module)
        for group in ("_parameters", "_buffers", "_modules"):
            items = own.get(group)
            if isinstance(items, dict):
                self._seen[id(items)] = items
                self._visit_container(place, items)
        if not type(module).__module__.startswith(_PARALLEL):
            self._visit_attributes(place, own, _NOT_RESTORED)
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                with suppress(Exception):  # it cannot be copied, or is not there yet
                    self._after.append((place, _extra_state(place, module)))
        self._visit_class(type(module))

    def _visit_file(self, place: str, file: Any) -> None:
        with suppress(OSError, ValueError):  # cannot be sought, is closed, or is being iterated over
            position = file.tell()
            self._after.append((place, _silent(lambda: file.seek(position))))

    def _visit_object(self, place: str, value: Any) -> None:
        if isinstance(value, functools.partial):
            self._wait(place, value.func, *value.args, *value.keywords.values())
        elif isinstance(value, types.MethodType):
            self._wait(place, value.__self__, value.__func__)
        elif isinstance(value, types.FunctionType):
            self._visit_function(place, value)
        elif not _is_machinery(type(value)):
            own = getattr(value, "__dict__", None)
            if isinstance(own, dict):
                self._visit_attributes(place, own, frozenset())
            self._visit_slots(place, value)
            self._visit_class(type(value))

    def _visit_function(self, place: str, function: types.FunctionType) -> None:
        if _is_machinery(function):
            return
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                content = cell.cell_contents
                # A list that a function fills is a record of the user's, as a global one: not restored, but searched.
                self._wait(place, *(_entries(content) if isinstance(content, _CONTAINERS) else [content]))
        self._wait(place, *(function.__defaults__ or ()), *_globals_read_by(function))

    def _visit_attributes(self, place: str, own: dict[str, Any], left_out: frozenset[str]) -> None:
        self._before.append((place, _restored_attributes(place, own, left_out)))
        self._wait_named(place, ((name, item) for name, item in own.items() if name not in left_out))

    def _visit_slots(self, place: str, value: Any) -> None:
        names = [name for kind in type(value).__mro__ for name in _slots_of(kind)]
        saved = {name: item for name in names if (item := getattr(value, name, _MISSING)) is not _MISSING}

        if saved:
            self._before.append((place, _restored_values(place, value, saved)))
            self._wait(place, *saved.values())

    def _visit_class(self, kind: type) -> None:
        """Find attributes of a class and what its methods hold or read as global variables."""
        for base in kind.__mro__:
            if id(base) in self._seen or _is_machinery(base):
                continue
            self._seen[id(base)] = base
            kinds = (*_PLAIN, *_CONTAINERS, *GENERATORS, Tensor, np.ndarray)
            state = {
                name: value
                for name, value in vars(base).items()
                if isinstance(value, kinds) and not name.startswith("__")
            }
            self._before.append((base.__name__, _restored_values(base.__name__, base, state)))
            members = [
                getattr(value, "__func__", value) for value in vars(base).values()
            ]  # of static methods
            methods = [value for value in members if isinstance(value, types.FunctionType)]
            self._wait(base.__name__, *state.values(), *methods)

    def _wait_named(self, place: str, items: Iterable[tuple[Any, Any]]) -> None:
        prefix = f"{place}." if place else ""
        self._waiting.extend(
            (f"{prefix}{name}", item) for name, item in items if type(item) not in _PLAIN_TYPES
        )

    def _wait(self, place: str, *values: Any) -> None:
        self._waiting.extend((place, value) for value in values)


def _entries(container: Any) -> Iterable[Any]:
    """Return what to search in a container."""
    if len(container) > _MOST_SEARCHED:
        return ()
    return container.values() if isinstance(container, dict) else container


def _is_machinery(kind: type | types.FunctionType) -> bool:
    name = kind.__module__ or ""
    if name.startswith(_TORCH_DATA):
        return kind.__name__.startswith("_")  # running iterators
    return name.split(".")[0] in _MACHINERY


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _globals_read_by(function: types.FunctionType) -> Iterator[Any]:
    """Yield the random generators among the global variables that a function reads, and functions of its module."""
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        for name in code.co_names:
            value = function.__globals__.get(name)
            is_helper = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
            if is_helper or isinstance(value, GENERATORS):
                yield value


# ---------------------------------------------------------------- putting back


def _run(actions: Iterable[tuple[str, PutBack]]) -> tuple[list[str], list[str]]:
    """Return the names of what was put back, and of what raised an exception instead."""
    names, failures = list[str](), list[str]()
    for place, put_back in actions:
        try:
            names.extend(put_back())
        except Exception:  # of an object of the user; the others are to be put back all the same
            failures.append(place)
    return names, failures


def _silent(put_back: Callable[[], object]) -> PutBack:
    def act() -> Iterable[str]:
        put_back()
        return ()

    return act


def _flags(tensor: Tensor) -> PutBack:
    """Keep whether a tensor takes gradients, and which tensor its gradient is."""
    if not tensor.is_leaf:
        return tuple
    requires_grad, gradient = tensor.requires_grad, tensor.grad

    def put_back() -> None:
        if tensor.is_leaf and tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.is_leaf and tensor.grad is not gradient:
            tensor.grad = gradient

    return _silent(put_back)


def _restored_array(place: str, array: npt.NDArray[Any]) -> PutBack:
    saved = array.copy()

    def put_back() -> Iterator[str]:
        if array.tobytes() != saved.tobytes():
            array[...] = saved
            yield place

    return put_back


def _restored_attributes(place: str, own: dict[str, Any], left_out: frozenset[str]) -> PutBack:
    saved = {name: value for name, value in own.items() if name not in left_out}

    def put_back() -> Iterator[str]:
        for name in [name for name in own if name not in saved and name not in left_out]:
            value = own.pop(name)
            if not isinstance(value, Tensor):
                yield f"{place}.{name}".lstrip(".")
        for name, value in saved.items():
            now = own.get(name, _MISSING)
            if now is value:
                continue
            own[name] = value
            # Forward passes leave activations behind (attention maps, weights computed from others): no news.
            if not isinstance(now, Tensor) and not _same_plain(now, value) and name != "training":
                yield f"{place}.{name}".lstrip(".")

    return put_back


def _restored_values(place: str, owner: Any, saved: dict[str, Any]) -> PutBack:
    """Return what puts attributes back that do not lie in a dictionary that can be written to."""

    def put_back() -> Iterator[str]:
        for name, value in saved.items():
            if getattr(owner, name, _MISSING) is not value:
                (setattr if isinstance(owner, type) else object.__setattr__)(owner, name, value)
                yield f"{place}.{name}"

    return put_back


def _same_plain(one: Any, other: Any) -> bool:
    return isinstance(one, _PLAIN) and isinstance(other, _PLAIN) and type(one) is type(other) and one == other


def _restored_items(place: str, container: Any) -> PutBack:
    """Return what puts the entries of a container back, in place."""
    # Not by methods of a subclass, which may refuse or do more.
    is_mapping = isinstance(container, dict)
    saved: Any = dict(container) if is_mapping else list(container)

    def put_back() -> Iterator[str]:
        same = len(container) == len(saved) and all(map(operator.is_, container, saved))
        if same and (not is_mapping or all(map(operator.is_, container.values(), saved.values()))):
            return
        names = _changed_keys(container, saved) if is_mapping else [None]
        kind = _kind_of(container)
        kind.clear(container)
        if is_mapping:
            for key, value in saved.items():
                kind.__setitem__(container, key, value)
        else:
            (kind.update if kind is set else kind.extend)(container, saved)
        yield from (place if name is None else f"{place}.{name}".lstrip(".") for name in names)

    return put_back


def _kind_of(container: Any) -> Any:
    return next(kind for kind in (OrderedDict, *_CONTAINERS) if isinstance(container, kind))


def _changed_keys(now: Any, saved: dict[Any, Any]) -> list[Any]:
    return [key for key in {**saved, **now} if now.get(key, _MISSING) is not saved.get(key, _MISSING)]


def _extra_state(place: str, module: nn.Module) -> PutBack:
    saved = copy.deepcopy(module.get_extra_state())

    def put_back() -> Iterator[str]:
        if not _equal(module.get_extra_state(), saved):
            module.set_extra_state(saved)
            yield f"{place}.extra_state".lstrip(".")

    return put_back


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_equal, one, other))
    if type(one) is type(other) and type(one).__eq__ is object.__eq__ and hasattr(one, "__dict__"):
        return _equal(vars(one), vars(other))
    try:
        return bool(one == other)
    except (ValueError, RuntimeError, TypeError):  # arrays have no single truth
        return False
