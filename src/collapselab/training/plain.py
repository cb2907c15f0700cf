"""Python values as plain ones, which files hold without pickles, and back into the objects that hold them.

Numbers, text, tensors, arrays, containers of them and random generators are stored. Objects of classes of the user's own
files are stored attribute by attribute, modules that are hidden from their parents parameter by parameter. Everything
else, and tensors that share memory with the network's own, is left as it is.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.user_code import is_of_user

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_SEQUENCES: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
_MODULE_FIELDS = frozenset(vars(nn.Module())) - {"training"}
# Stands for a value that is not stored, or cannot be put back.
LEFT: dict[str, Any] = {"kind": "left"}
_NOTHING = object()
_DICTS: dict[str, Any] = {kind.__name__: kind for kind in (dict, OrderedDict, Counter)}


class Plain:
    """Turns values into plain ones and puts them back.

    Args:
        own: tensors that are stored elsewhere: the network's parameters and buffers.
        modules: modules whose attributes are stored elsewhere.
    """

    def __init__(self, own: Iterable[Tensor] = (), modules: Iterable[nn.Module] = ()) -> None:
        self._own = {_memory(tensor) for tensor in own} - {None}
        # By identity, with the objects themselves: a later one could get the identity of one that is gone.
        self._forms: dict[int, tuple[object, Any]] = {id(module): (module, LEFT) for module in modules}
        self._done: set[tuple[int, int]] = set()

    # ---------------------------------------------------------------- there

    def attributes(self, holder: object) -> dict[str, Any]:
        """Return the attributes of an object that can be stored, by name; without what `nn.Module` itself keeps."""
        hidden = _MODULE_FIELDS if isinstance(holder, nn.Module) else ()
        values = {
            name: self.stored(value)
            for name, value in vars(holder).items()
            if name not in hidden and not name.startswith("__")
        }
        return {name: value for name, value in values.items() if value is not LEFT}

    def stored(self, value: Any) -> Any:
        """Return a plain form of a value, or `LEFT`."""
        if type(value) in _SCALARS:
            return value
        if id(value) not in self._forms:
            self._forms[id(value)] = (value, LEFT)  # what contains itself ends here
            self._forms[id(value)] = (value, self._form(value))
        return self._forms[id(value)][1]

    def _form(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
            return value.detach().cpu().clone() if plain and _memory(value) not in self._own else LEFT
        if isinstance(value, np.ndarray | np.generic):
            return LEFT if value.dtype.hasobject else _array(value)
        if isinstance(value, torch.Generator):
            return {"kind": "generator", "value": value.get_state()}
        if isinstance(value, random.Random | np.random.Generator | np.random.RandomState):
            return {"kind": "generator", "value": self.stored(_generator_state(value))}
        if isinstance(value, dict):
            items = [(self.stored(key), self.stored(item)) for key, item in value.items()]
            return {"kind": "dict", "type": type(value).__name__, "value": items}
        if isinstance(value, tuple(_SEQUENCES.values())):
            form = {"kind": type(value).__name__, "value": [self.stored(item) for item in value]}
            return form | {"maxlen": value.maxlen} if isinstance(value, deque) else form
        if isinstance(value, nn.Module):
            return self._module_form(value)
        return {"kind": "object", "value": self.attributes(value)} if _is_users(value) else LEFT

    def _module_form(self, module: nn.Module) -> Any:
        self._forms |= {id(part): (part, LEFT) for part in module.modules()}
        tensors = (*module.named_parameters(), *module.named_buffers())
        return {
            "kind": "module",
            "value": {name: self.stored(tensor) for name, tensor in tensors},
            "modules": {name: self.attributes(part) for name, part in module.named_modules()},
        }

    # ---------------------------------------------------------------- and back

    def restore(self, holder: object, values: Mapping[str, Any]) -> None:
        """Set attributes of an object to what `attributes` returned."""
        fields = vars(holder)
        for name, value in values.items():
            restored = self.restored(fields.get(name), value)
            if restored is not LEFT:
                fields[name] = restored

    def restored(self, now: Any, value: Any) -> Any:
        """Return the value that a plain form stands for; objects that are there are changed in place.

        Args:
            now: what is in its place.
            value: what `stored` returned.
        """
        if isinstance(value, Tensor):
            return restored_tensor(now, value)
        if not isinstance(value, dict):
            return value
        kind, content = value["kind"], value.get("value")
        if kind == "array":
            return _restored_array(value)
        if kind == "generator":
            _set_generator(now, self.restored(None, content))
            return now
        if kind in ("module", "object"):
            if hasattr(now, "__dict__") and (id(value), id(now)) not in self._done:
                self._done.add((id(value), id(now)))
                self._restore_object(now, value)
            return now
        if kind == "left":
            return LEFT
        return self._restored_dict(now, value) if kind == "dict" else self._restored_sequence(now, value)

    def _restore_object(self, now: Any, form: dict[str, Any]) -> None:
        if form["kind"] == "object":
            self.restore(now, form["value"])
        elif isinstance(now, nn.Module):
            for name, tensor in (*now.named_parameters(), *now.named_buffers()):
                if isinstance(form["value"].get(name), Tensor):
                    restored_tensor(tensor, form["value"][name])
            for name, part in now.named_modules():
                self.restore(part, form["modules"].get(name, {}))

    def _restored_sequence(self, now: Any, form: dict[str, Any]) -> Any:
        content, same = form["value"], type(now).__name__ == form["kind"]
        before = list(now) if same else []
        before += [_NOTHING] * (len(content) - len(before))
        items = [self._kept(old, item) for old, item in zip(before, content, strict=False)]
        if any(item is _NOTHING for item in items):
            return LEFT
        if same and isinstance(now, list | deque):  # others may hold the same one
            now.clear()
            now.extend(items)
            return now
        if hasattr(now, "_make") and same:
            return now._make(items)
        kind = _SEQUENCES.get(form["kind"])
        if kind is None:
            return LEFT
        return deque(items, form["maxlen"]) if kind is deque else kind(items)

    def _restored_dict(self, now: Any, form: dict[str, Any]) -> Any:
        before = now if type(now).__name__ == form["type"] else _DICTS.get(form["type"], lambda: None)()
        if before is None:
            return LEFT
        items: dict[Any, Any] = {}
        for stored_key, item in form["value"]:
            key = self._kept(_NOTHING, stored_key)
            if key is _NOTHING:
                return LEFT
            items[key] = self._kept(before.get(key, _NOTHING), item)
        if any(item is _NOTHING for item in items.values()):
            return LEFT
        before.clear()  # others may hold the same one
        before.update(items)
        return before

    def _kept(self, old: Any, form: Any) -> Any:
        """Return the restored value, or, where none was stored, the one that is there."""
        value = self.restored(old, form)
        return old if value is LEFT else value


def digest(form: Any, known: dict[int, bytes] | None = None) -> bytes:
    """Return what tells a plain form from others.

    Args:
        known: digests of parts that occur in several places, by identity.
    """
    known = {} if known is None else known
    if id(form) in known:
        return known[id(form)]
    found = hashlib.blake2b(type(form).__name__.encode(), digest_size=16)
    if isinstance(form, Tensor):
        found.update(repr((form.dtype, tuple(form.shape))).encode())
        found.update(form.contiguous().view(-1).view(torch.uint8).numpy().data)
    elif isinstance(form, dict | list | tuple):
        for item in (*form, *form.values()) if isinstance(form, dict) else form:
            found.update(digest(item, known))
        known[id(form)] = found.digest()
    else:
        found.update(repr(form).encode(errors="surrogatepass"))
    return found.digest()


# ---------------------------------------------------------------- single kinds


def _memory(tensor: Tensor) -> Any:
    """Return what tensors that share memory have in common; None for those that have no memory of their own."""
    try:
        return StorageWeakRef(tensor.untyped_storage()) if tensor.numel() else None
    except (RuntimeError, NotImplementedError):  # a tensor without one storage, such as a sparse one
        return None


def _array(value: Any) -> dict[str, Any]:
    """Return the form of a numpy array or number; torch lacks some of numpy's dtypes, so its bytes are kept."""
    array = np.asarray(value)
    raw = torch.frombuffer(bytearray(array.tobytes() or b"\0"), dtype=torch.uint8)
    form = {"dtype": array.dtype.str, "shape": list(array.shape), "number": isinstance(value, np.generic)}
    return {"kind": "array", "value": raw} | form


def _restored_array(form: dict[str, Any]) -> Any:
    dtype, shape = np.dtype(form["dtype"]), form["shape"]
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    array = np.frombuffer(form["value"].numpy().tobytes()[:size], dtype=dtype).reshape(shape).copy()
    return array[()] if form["number"] else array


def restored_tensor(now: Any, value: Tensor) -> Tensor:
    """Copy `value` into the tensor that is there, or return it where there is none of its form."""
    if isinstance(now, Tensor) and (now.shape, now.dtype) == (value.shape, value.dtype):
        try:
            with torch.no_grad():
                now.copy_(value)  # others may hold the same tensor
        except RuntimeError:  # memory that cannot be written to, such as an expanded tensor's
            return value.to(now.device)
        return now
    return value.to(now.device) if isinstance(now, Tensor) else value


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state(legacy=False)


def _set_generator(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        version, numbers, gauss = state
        generator.setstate((version, tuple(numbers), gauss))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState | torch.Generator):
        generator.set_state(state)


def _is_users(value: Any) -> bool:
    module = sys.modules.get(type(value).__module__)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type)
        and is_of_user(getattr(module, "__file__", None))
    )
