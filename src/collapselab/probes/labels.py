"""What the labels of a batch mean: next tokens, padding, single columns, and labels that the model needs as inputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes.batches import IGNORED_LABEL, Batch
from collapselab.probes.inputs import Path

_CAUSAL = (
    "ForCausalLM", "LMHeadModel", "DoubleHeadsModel", "ForConditionalGeneration", "ForCausalImageModeling",
)  # fmt: skip
# These predict each token from both sides, in spite of their names.
_NOT_CAUSAL = ("XLNet", "XLM", "Flaubert")
_DECODER_INPUTS = ("decoder_input_ids", "decoder_inputs_embeds", "labels")


@dataclass
class LabelRules:
    """How labels are read.

    Attributes:
        ignore_index: positions with this label are padding, as those with -100.
        shift: whether the label of a token is the next token.
        pass_on: whether the model is given the labels too: it makes the inputs of its decoder of them.
    """

    ignore_index: int | None = None
    shift: bool = False
    pass_on: bool = False

    def read(self, batch: Batch) -> Batch:
        """Return the batch with labels as they are measured."""
        inputs = batch.inputs
        of_tokens = isinstance(inputs, Mapping) and batch.labels.ndim == 2
        if self.pass_on and of_tokens and not any(key in inputs for key in _DECODER_INPUTS):
            inputs = {**inputs, "labels": batch.labels.to(batch.device)}
        labels = batch.labels
        if self.ignore_index is not None:
            labels = labels.masked_fill(labels == self.ignore_index, IGNORED_LABEL)
        if labels.ndim > 1 and 1 in labels.shape[1:]:  # a column of labels, a map with one channel
            labels = labels.reshape(labels.shape[0], *(size for size in labels.shape[1:] if size != 1))
        if inputs is not batch.inputs or labels is not batch.labels:
            batch = dataclasses.replace(batch, inputs=inputs, labels=labels)
        return self.shifted(batch)

    def shifted(self, batch: Batch) -> Batch:
        """Return the batch with the next token as the label of each, if labels are shifted."""
        if not self.shift:
            return batch
        if batch.labels.ndim != 2:
            raise InputError(
                f"{batch.place}: shift_labels=True needs labels of tokens, (n, tokens), not of shape "
                f"{tuple(batch.labels.shape)}"
            )
        last = torch.full_like(batch.labels[:, :1], IGNORED_LABEL)
        return dataclasses.replace(batch, labels=torch.cat([batch.labels[:, 1:], last], 1))


def needs_labels(model: nn.Module) -> bool:
    """Return whether a model of `transformers` makes the inputs of its decoder of the labels, as T5 and BART do."""
    inner = _pretrained(model)
    is_encoder_decoder = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
    return (
        inner is not None and is_encoder_decoder and "labels" in inspect.signature(inner.forward).parameters
    )


def decide_shift(model: nn.Module, batch: Batch, wanted: bool | None) -> tuple[bool, str | None]:
    """Return whether labels are shifted to the next token, and what to say about it.

    Labels equal in shape to the `input_ids` of a causal language model of `transformers` are those that its own loss
    shifts, unless they are next tokens already.

    Args:
        batch: the first batch, labels as given.
        wanted: the option `shift_labels`.
    """
    if wanted is not None:
        return wanted, None
    tokens = _tokens(batch)
    if tokens is None:
        return False, None
    tokens = tokens.cpu()
    labels, counted = batch.labels, batch.labels != IGNORED_LABEL
    is_copy = bool((labels == tokens)[counted].all()) and bool(counted.any())
    is_next = bool((labels[:, :-1] == tokens[:, 1:])[counted[:, :-1]].all())
    inner = _causal(model)
    if inner is None or (is_next and not is_copy) or not _shifts(model, inner, batch):
        says = "all labels equal the input tokens; give shift_labels=True if each token is to predict the next one"
        return False, says if is_copy and inner is None else None
    return True, (
        f"{type(inner).__name__} predicts the next token: labels are shifted by one, so that the class of a token is the "
        "token after it, as in the model's own loss; shift_labels=False leaves them as they are"
    )


def _tokens(batch: Batch) -> Tensor | None:
    """Return the token numbers, if there is one label for each."""
    inputs = batch.inputs
    found = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if not isinstance(found, Tensor) or found.is_floating_point() or batch.labels.ndim != 2:
        return None
    return found if found.shape == batch.labels.shape else None


def _pretrained(model: nn.Module) -> Any:
    """Return the outermost model of `transformers`, without wrappers of other libraries; None if there is none."""
    for module in model.modules():
        if any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__):
            return module
    return None


def _causal(model: nn.Module) -> nn.Module | None:
    inner = _pretrained(model)
    if inner is None or getattr(inner.config, "is_encoder_decoder", False):
        return None
    # A user's own subclass counts as what it is made of.
    names = [kind.__name__ for kind in type(inner).__mro__]
    causal = any(name.endswith(_CAUSAL) and not name.startswith(_NOT_CAUSAL) for name in names)
    return inner if causal else None


def _shifts(model: nn.Module, inner: nn.Module, batch: Batch) -> bool:
    """Return whether the model's own loss shifts the labels: the decoders of BART and its kin do not."""
    if not isinstance(batch.inputs, Mapping) or "labels" not in inspect.signature(inner.forward).parameters:
        return True
    try:
        labels = batch.labels.to(batch.device)
        out = model(**{**batch.inputs, "labels": labels})
        scores = out["logits"].float()
        plain = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())
        moved = nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return bool((out["loss"] - plain).abs() >= (out["loss"] - moved).abs())
    except Exception:  # a model of another kind under that name: its class decides
        return True


def check_no_rows_of_bits(labels: Tensor, tensors: dict[Path, Tensor], has_scores: bool, place: str) -> None:
    """Refuse one-hot and multi-label rows, which look like token labels of 0 and 1.

    Raises:
        InputError: labels (n, k) of 0 and 1 where no output has scores for each of them.
    """
    if labels.ndim < 2 or has_scores or not tensors or not bool(((labels == 0) | (labels == 1)).all()):
        return
    if any(bool((labels.sum(axis) == 1).all()) for axis in (1, -1)):
        what, remedy = (
            "one-hot rows",
            "give class numbers, such as labels.argmax(1), in the loader or with split_batch=",
        )
    else:
        what, remedy = (
            "rows of several labels",
            "give one class number per sample, such as one of the attributes",
        )
    raise InputError(f"{place}: labels of shape {tuple(labels.shape)} look like {what}; {remedy}")
