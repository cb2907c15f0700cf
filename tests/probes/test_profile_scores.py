"""Which output decides and which layer is the classifier; what is said where neither is known."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from probe_networks import EXACT, batches, draw, measured, read_slowly, seeded, uneven
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes import Profile, profile

LABELS = uneven(20, 20, 20)
INPUTS = draw(6, labels=LABELS)
BINARY = LABELS % 2
TRAIN = batches(INPUTS, LABELS, 15)
KNOWN = {"class_counts": [20, 20, 20]}


class Net(nn.Module):
    """Two hidden layers, exits after each of them, heads side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 7)
        self.exit, self.fc, self.twin = nn.Linear(8, 3), nn.Linear(7, 3), nn.Linear(7, 3)
        self.embed, self.prototypes = nn.Linear(7, 5), nn.Parameter(torch.randn(3, 5))
        self.register_buffer("frame", torch.eye(3) - 1 / 3)
        self.neck, self.also = nn.Linear(7, 3), nn.Linear(8, 3)
        self.norm, self.wide, self.pair, self.one = (
            nn.BatchNorm1d(3),
            nn.Linear(7, 16),
            nn.Linear(7, 2),
            nn.Linear(7, 1),
        )
        self.deep, self.deepest = nn.Linear(7, 6), nn.Linear(6, 3)
        self.norm.register_buffer("running_var", torch.tensor([0.9, 1.0, 1.2]))
        self.register_buffer("scale", torch.tensor([0.98, 1.0, 1.05]))
        self.aux_free = nn.ModuleDict({"fc": nn.Linear(7, 3)})
        self.aux_head = nn.Linear(7, 3)

    def further(self, late: Tensor) -> Tensor:
        """Scores of another kind, of a deeper head."""
        return self.deepest(self.deep(late).tanh())

    def forward(self, inputs: Tensor) -> Any:
        early = self.first(inputs).relu()
        late = self.second(early).relu()
        return self.finish(early, late)

    def finish(self, early: Tensor, late: Tensor) -> Any:
        raise NotImplementedError


def net(finish: Any) -> Any:
    kind = type("Finished", (Net,), {"finish": finish})
    return seeded(kind).eval()


Exits = namedtuple("Exits", "main aux_logits")


def agreement(model: nn.Module, layer: str, scores: Tensor) -> float | None:
    features, _ = read_slowly(_Only(model, scores), TRAIN, f"model.{layer}")
    value = measured((features, LABELS, scores.argmax(1)))["train"]["ncc_agreement"]
    return value


class _Only(nn.Module):
    """A model that returns given scores, so that `read_slowly` need not look for them."""

    def __init__(self, model: nn.Module, scores: Tensor) -> None:
        super().__init__()
        self.model, self.scores = model, scores

    def forward(self, inputs: Tensor) -> Tensor:
        self.model(inputs)
        return self.scores[: len(inputs)]


def check(found: Profile, model: Any, scores: Tensor, classifier: str | None) -> None:
    """The agreement of a layer is that with the decisions of `scores`, and only `classifier` has self-duality."""
    assert found["second"].train["ncc_agreement"] == pytest.approx(
        agreement(model, "second", scores.detach()), abs=1e-15
    )
    dual = [layer.name for layer in found.layers if layer.train["self_duality"] is not None]
    assert dual == ([] if classifier is None else [classifier])
    if classifier is not None:
        features, _ = read_slowly(_Only(model, scores.detach()), TRAIN, f"model.{classifier}")
        weight = model.get_submodule(classifier).weight.detach()
        wanted = measured((features, LABELS, scores.argmax(1)), weight=weight)["train"]["self_duality"]
        assert found[classifier].train["self_duality"] == pytest.approx(wanted, rel=EXACT)
        assert found.layers[-1].name == classifier


# name: (what the network returns, which of it are the class scores, its classifier)
DECIDED: dict[str, tuple[Any, Any, str | None]] = {
    "features and logits": (lambda s, e, h: (h, s.fc(h)), lambda out: out[1], "fc"),
    "logits and features": (lambda s, e, h: (s.fc(h), e, h), lambda out: out[0], "fc"),
    "features as wide as classes": (lambda s, e, h: (s.neck(h), s.fc(h)), lambda out: out[1], None),
    "a list of exits": (lambda s, e, h: [s.exit(e), s.also(e), s.fc(h)], lambda out: out[2], "fc"),
    "exits, the last first": (lambda s, e, h: (s.fc(h), s.exit(e), s.also(e)), lambda out: out[0], "fc"),
    "exits by name": (lambda s, e, h: {"exit_1": s.exit(e), "exit_2": s.fc(h)}, lambda out: out["exit_2"], "fc"),
    "stages of a list by name": (lambda s, e, h: {"stages": [s.exit(e), s.fc(h)]}, lambda o: o["stages"][1], "fc"),
    "logits and boxes": (
        lambda s, e, h: {"pred_logits": s.fc(h), "pred_boxes": s.further(h)}, lambda o: o["pred_logits"], "fc"
    ),
    "logits and a prediction": (
        lambda s, e, h: {"class_logits": s.fc(h), "pred": s.further(h)}, lambda o: o["class_logits"], "fc"
    ),
    "logits and an output": (
        lambda s, e, h: {"output": s.further(h), "class_logits": s.fc(h)}, lambda o: o["class_logits"], "fc"
    ),
    "auxiliary logits and an output": (
        lambda s, e, h: {"output": s.fc(h), "aux_logits": s.twin(h)}, lambda o: o["output"], "fc"
    ),
    "wide features that are the output": (
        lambda s, e, h: {"output": s.wide(h), "class_logits": s.fc(h)}, lambda o: o["class_logits"], "fc"
    ),
    "an embedding that is the output": (
        lambda s, e, h: {"out": s.wide(h)[:, :8], "scores": s.fc(h)}, lambda o: o["scores"], "fc"
    ),
    "wide logits of something else": (
        lambda s, e, h: {"logits": s.wide(h), "scores": s.fc(h)}, lambda o: o["scores"], "fc"
    ),
    "a network without auxiliary heads": (
        lambda s, e, h: (s.aux_free["fc"](h), s.aux_head(h)), lambda out: out[0], "aux_free.fc"
    ),
    "one layer read thrice": (lambda s, e, h: (s.fc(h) + s.fc(h) + s.fc(h)) / 3, lambda out: out, "fc"),
    "one layer read of two inputs": (lambda s, e, h: (s.fc(h) + s.fc(h.square())) / 2, lambda out: out, None),
    "normalised scores": (lambda s, e, h: s.norm(s.fc(h)), lambda out: out, None),
    "scores with a scale for each class": (lambda s, e, h: s.fc(h) * s.scale, lambda out: out, None),
    "scores with an offset for each class": (lambda s, e, h: s.fc(h) + 20 * s.scale, lambda out: out, "fc"),
    "scores at a temperature": (lambda s, e, h: (s.fc(h) / s.scale[:1].exp()).softmax(1), lambda out: out, "fc"),
    "an auxiliary head by name": (lambda s, e, h: Exits(s.fc(h), s.twin(h)), lambda out: out[0], "fc"),
    "an auxiliary head in a mapping": (lambda s, e, h: {"aux": s.twin(h), "out": s.fc(h)}, lambda o: o["out"], "fc"),
    "an average of heads": (lambda s, e, h: (s.fc(h) + s.twin(h)) / 2, lambda out: out, None),
    "logits among heads": (
        lambda s, e, h: {"first_logits": s.fc(h), "logits": (s.fc(h) + s.twin(h)) / 2}, lambda o: o["logits"], None
    ),
    "scaled scores": (lambda s, e, h: 7 * s.fc(h).tanh() - 1, lambda out: out, "fc"),
    "a fixed frame": (lambda s, e, h: s.neck(h) @ s.frame, lambda out: out, None),
    "a cosine head": (
        lambda s, e, h: 9 * nn.functional.normalize(s.embed(h)) @ nn.functional.normalize(s.prototypes).T,
        lambda out: out, None,
    ),
    "distances to prototypes": (lambda s, e, h: -torch.cdist(s.embed(h), s.prototypes), lambda out: out, None),
    "distances written out": (
        lambda s, e, h: -(s.neck(h)[:, None] - s.prototypes[:, :3]).square().sum(-1), lambda out: out, None
    ),
    "turned scores": (lambda s, e, h: -s.fc(h), lambda out: out, None),
    "classes in another order": (lambda s, e, h: s.fc(h)[:, [2, 0, 1]], lambda out: out, None),
    "log-probabilities": (lambda s, e, h: s.fc(h).log_softmax(1), lambda out: out, "fc"),
    "scores and an embedding": (lambda s, e, h: (s.embed(h), s.fc(h)), lambda out: out[1], "fc"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DECIDED)
def test_the_output_that_decides_is_found(kind: str) -> None:
    finish, of, classifier = DECIDED[kind]
    model = net(finish)
    found = profile(model, TRAIN, **KNOWN)  # pyright: ignore[reportArgumentType] a list of counts
    if kind == "features as wide as classes":  # two heads side by side: nobody can tell
        assert found["second"].train["ncc_agreement"] is None
        assert any("outputs 0, 1 could all be class scores" in text for text in found.warnings)
        return
    check(found, model, of(model(INPUTS)), classifier)
    said = any("no layer is the classifier" in text for text in found.warnings)
    assert said == (classifier is None)


TWO_HEADS: dict[str, Any] = {
    "a pair": lambda s, e, h: (s.fc(h), s.further(h)),
    "a projection": lambda s, e, h: {"cls": s.fc(h), "projection": s.further(h)},
    "logits of two kinds": lambda s, e, h: {"class_logits": s.fc(h), "domain_logits": s.further(h)},
    "one exit": lambda s, e, h: {"exit": s.exit(e), "projection": s.further(h)},
}


@pytest.mark.parametrize("kind", TWO_HEADS)
def test_the_deeper_of_two_heads_is_not_taken(kind: str) -> None:
    found = profile(net(TWO_HEADS[kind]), TRAIN, **KNOWN)  # pyright: ignore[reportArgumentType]
    assert all(layer.train["ncc_agreement"] is None for layer in found.layers)
    assert all(layer.train["self_duality"] is None for layer in found.layers)
    assert any("could all be class scores" in text for text in found.warnings)


def test_a_neck_below_a_wider_head_is_not_taken_for_its_width() -> None:
    def finish(self: Any, early: Tensor, late: Tensor) -> Any:
        neck = self.neck(late)
        return neck, self.above(neck)

    model = net(finish)
    model.above = nn.Linear(3, 10).double()
    found = profile(model, TRAIN)
    assert found["second"].train["ncc_agreement"] is None
    assert any("outputs 0, 1 could all be class scores" in text for text in found.warnings)


def test_the_first_classes_of_sorted_data_do_not_tell_the_width() -> None:
    labels = torch.arange(8).repeat_interleave(8)
    inputs = draw(6, labels=labels)
    model = net(lambda s, e, h: {"output": s.wide(h), "embedding": s.fc(h)})
    found = profile(model, batches(inputs, labels, 24))  # three classes in the first batch
    assert found["second"].train["ncc_agreement"] is None
    assert any("outputs embedding, output could all be" in text for text in found.warnings)


@pytest.mark.parametrize(
    "finish",
    [
        lambda s, e, h: {"logits": s.pair(h), "confidence": s.one(h).squeeze(1)},
        lambda s, e, h: (s.pair(h), s.one(h)),
        lambda s, e, h: {"policy": s.pair(h), "output": s.one(h).sigmoid()},
    ],
    ids=["confidence", "value", "a better name"],
)
def test_two_scores_come_before_a_single_value(finish: Any) -> None:
    model = net(finish)
    found = profile(model, batches(INPUTS, BINARY, 15))
    out = model(INPUTS)
    scores = next(iter(out.values())) if isinstance(out, dict) else out[0]
    features, _ = read_slowly(_Only(model, scores.detach()), TRAIN, "model.pair")
    wanted = measured((features, BINARY, scores.argmax(1)))["train"]["ncc_agreement"]
    assert found["pair"].train["ncc_agreement"] == pytest.approx(wanted, abs=1e-15)
    assert found.layers[-1].name == "pair"
    assert found["pair"].train["self_duality"] is not None


FIXED_HEADS: dict[str, Any] = {
    "distances": lambda s, e, h: -((s.neck(h)[:, None] - s.prototypes[:, :3]) ** 2).sum(-1),
    "products": lambda s, e, h: (s.neck(h)[:, None] * s.prototypes[:, :3]).sum(-1),
    "expanded products": lambda s, e, h: (s.neck(h)[:, None].expand(-1, 3, -1) * s.prototypes[:, :3]).sum(-1),
    "one class at a time": lambda s, e, h: torch.stack(
        [(s.neck(h) * row[:3]).sum(1) for row in s.prototypes], 1
    ),
}


@pytest.mark.parametrize("size", [2, 4, 20])
@pytest.mark.parametrize("kind", FIXED_HEADS)
def test_a_fixed_head_is_never_the_layer_below_it(kind: str, size: int) -> None:
    torch.manual_seed(size)
    for _ in range(2 if size < 4 else 1):
        model = net(FIXED_HEADS[kind])
        model.prototypes.data.normal_().add_(2 * torch.eye(3, 5))  # such a head often keeps the order
        found = profile(model, batches(INPUTS, LABELS, size)[:4])
        assert all(layer.train["self_duality"] is None for layer in found.layers)
        assert any("no layer is the classifier" in text for text in found.warnings)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize(
    "after",
    [lambda x: x, lambda x: x / 3, lambda x: x.softmax(1), lambda x: x.log_softmax(1), lambda x: x.sigmoid()],
    ids=["nothing", "temperature", "softmax", "log_softmax", "sigmoid"],
)
def test_the_classifier_is_known_from_few_samples(after: Any, size: int) -> None:
    found = profile(net(lambda s, e, h: after(s.fc(h))), batches(INPUTS, LABELS, size)[:8])
    assert found.layers[-1].name == "fc"
    assert found.layers[-1].train["self_duality"] is not None


def test_a_neck_as_wide_as_the_classes_is_below_its_head() -> None:
    def finish(self: Any, early: Tensor, late: Tensor) -> Any:
        neck = self.neck(late)
        return neck, self.fixed(neck)

    model = net(finish)
    model.fixed = nn.Linear(3, 3).double()
    found = profile(model, TRAIN)
    check(found, model, model(INPUTS)[1], "fixed")


def test_probabilities_of_the_same_scores_are_one_output() -> None:
    def finish(self: Any, early: Tensor, late: Tensor) -> Any:
        scores = self.fc(late)
        return {"probabilities": scores.softmax(1), "answer": scores}

    model = net(finish)
    check(profile(model, TRAIN), model, model(INPUTS)["answer"], "fc")


def test_two_halves_of_one_layer_are_two_heads() -> None:
    def finish(self: Any, early: Tensor, late: Tensor) -> Any:
        return self.both(late).chunk(2, 1)

    model = net(finish)
    model.both = nn.Linear(7, 6).double()
    found = profile(model, TRAIN)
    assert found["second"].train["ncc_agreement"] is None
    assert any("could all be class scores" in text for text in found.warnings)
    by_hand = profile(model, TRAIN, scores=1)
    assert profile(model, TRAIN, scores=-1) == by_hand
    assert by_hand["both"].train["self_duality"] is None  # three of its six rows
    check(by_hand, model, model(INPUTS)[1], None)


TWINS = net(
    lambda self, early, late: {"a": self.fc(late), "b": {"c": self.twin(late), "d": late[:, :, None]}}
)


@pytest.mark.parametrize("wanted", ["c", "b.c", lambda out: out["b"]["c"]], ids=["name", "path", "function"])
def test_scores_by_hand(wanted: Any) -> None:
    undecided = profile(TWINS, TRAIN)
    assert undecided["fc"].train["ncc_agreement"] is None
    assert undecided["fc"].train["self_duality"] is None
    assert any(
        text.startswith("model: outputs a, b.c could all be class scores") and "scores=" in text
        for text in undecided.warnings
    )
    check(profile(TWINS, TRAIN, scores=wanted), TWINS, TWINS(INPUTS)["b"]["c"], "twin")


def test_no_scores_by_hand() -> None:
    found = profile(net(lambda s, e, h: s.fc(h)), TRAIN, scores=False)
    assert all(layer.train["ncc_agreement"] is None for layer in found.layers)
    assert all(layer.train["self_duality"] is None for layer in found.layers)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scores": "e"}, r"^scores='e': the model returns a, b\.c, b\.d; give one of these"),
        ({"scores": "d"}, r"^scores='d': has shape \(15, 7, 1\), not one row of class scores per label"),
        ({"scores": lambda out: out["z"]}, r"^scores=: the function raised KeyError .*returned, a dict$"),
        ({"scores": lambda out: out["a"].argmax(-1)}, r"^scores=<lambda>: a loss, whole numbers"),
        ({"scores": lambda out: out["a"][..., 0]}, r"^scores=<lambda>: a loss, whole numbers"),
        ({"scores": lambda out: 3}, r"^scores=: the function returned a int; let it return a tensor"),
        ({"scores": 2.5}, r"^scores=2\.5: give the name or number"),
        ({"classifier": "twins"}, r"^classifier='twins': no such module; did you mean 'twin'"),
        ({"classifier": "embed"}, r"^classifier='embed': no such layer ran"),
        ({"classifier": nn.Linear(2, 2)}, r"^classifier: give the name of a layer, not a Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_refused_in_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        profile(TWINS, TRAIN, **options)
    assert len(str(caught.value)) <= 300


def test_a_name_where_there_is_one_output_without_a_name() -> None:
    with pytest.raises(
        InputError, match=r"^scores='nothing': the model returns one output without a name; leave"
    ):
        profile(seeded(nn.Linear, 6, 3), TRAIN, scores="nothing")


def test_a_loss_by_name_is_no_class_score() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            scores = self.fc(x)
            return {"logits": scores, "loss": scores.logsumexp(1), "idx": scores.argmax(1)}

    for name in ("loss", "idx"):
        with pytest.raises(InputError, match=rf"^scores='{name}': a loss, whole numbers"):
            profile(seeded(WithLoss), TRAIN, scores=name)


def test_classifier_by_hand() -> None:
    model = net(lambda s, e, h: (s.fc(h) + s.twin(h)) / 2)
    found = profile(model, TRAIN, classifier="twin")
    assert found.layers[-1].name == "twin"
    assert [layer.name for layer in found.layers if layer.train["self_duality"] is not None] == ["twin"]


class CosineHead(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, width))

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features) @ nn.functional.normalize(self.directions).T


def test_a_head_of_ones_own_is_measured_where_it_is_named() -> None:
    model = seeded(nn.Sequential, nn.Linear(6, 5), nn.Tanh(), CosineHead(5, 3))
    assert [layer.name for layer in profile(model, TRAIN).layers] == ["0"]
    found = profile(model, TRAIN, classifier="2")
    assert [layer.name for layer in found.layers] == ["0", "2"]
    features, scores = read_slowly(model, TRAIN, "2")
    wanted = measured((features, LABELS, scores.argmax(1)))["train"]
    for name in ("normalized_within", "ncc_agreement", "vci"):
        assert found["2"].train[name] == pytest.approx(wanted[name], rel=EXACT)
    assert found["2"].train["self_duality"] is None
