"""Networks by name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from collapselab.errors import InputError
from collapselab.models import MLP, VGG11, ConvNet, open_model, required_channels, required_image_size
from collapselab.randomness import seeded

BUILDERS = """
import numpy as np
import torch
from torch import nn
from beside import WIDTH

def small(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], num_classes))

def fixed():
    return nn.Linear(WIDTH, int(np.random.randint(2, 1000)))

def everything(**arguments):
    assert set(arguments) == {"num_classes", "input_shape"}
    return nn.Linear(1, arguments["num_classes"])

def broken(num_classes):
    raise KeyError("no\\nluck")

def quits():
    raise SystemExit(2)

def wrong():
    return 3

number = 3
"""


@pytest.fixture
def builders(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    path = tmp_path / "nets.py"
    path.write_text(BUILDERS)
    return path


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        open_model(name, **{"num_classes": 3, "input_shape": (3, 8, 8), **options})
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_convnet_is_the_papers() -> None:
    model = open_model("convnet", num_classes=10, input_shape=(3, 32, 32))
    assert isinstance(model, ConvNet)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(layer.kernel_size, layer.stride, layer.padding) for layer in convolutions] == [
        *[((2, 2), (2, 2), (0, 0))] * 2,
        *[((3, 3), (1, 1), (1, 1))] * 20,
    ]
    assert {layer.out_channels for layer in convolutions} == {128}
    assert len(norms) == 22
    assert model.classifier.in_features == 128 * 8 * 8
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_convnet_applies_its_layers_in_order() -> None:
    torch.manual_seed(0)
    model = ConvNet(1, (9, 8), 2, width=4, depth=2).eval()
    inputs = torch.randn(3, 1, 9, 8)
    features = model.stem(inputs)
    assert features.shape == (3, 4, 2, 2)
    assert (features >= 0).all()
    for layer, norm in zip(model.layers, model.norms, strict=True):
        features = torch.relu(norm(layer(features)))
    assert torch.equal(model(inputs), model.classifier(features.flatten(1)))
    with pytest.raises(InputError, match="3 x 8 are too small"):
        ConvNet(1, (3, 8), 2)


def test_vgg_has_the_convolutions_of_torchvisions() -> None:
    theirs = open_model("torchvision/vgg11_bn", num_classes=10, input_shape=(3, 32, 32))
    ours = open_model("vgg11", num_classes=10, input_shape=(3, 32, 32))
    assert isinstance(ours, VGG11)
    assert isinstance(theirs.features, nn.Sequential)

    def parts(features: nn.Sequential) -> list[str]:
        return [f"{type(part).__name__} {getattr(part, 'out_channels', '')}" for part in features]

    assert parts(ours.features) == parts(theirs.features)
    assert [tuple(one.weight.shape) for one in ours.classifier if isinstance(one, nn.Linear)] == [
        (4096, 512),
        (4096, 4096),
        (10, 4096),
    ]
    assert [one.p for one in ours.modules() if isinstance(one, nn.Dropout)] == [0.5, 0.5]


def test_vgg_computes_what_torchvisions_does_with_its_weights() -> None:
    """At 224 x 224 pixels, where torchvision does not resample features."""
    torch.manual_seed(0)
    theirs = torchvision.models.VGG(
        torchvision.models.vgg.make_layers([4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"], True)
    )
    theirs.classifier = nn.Sequential(
        nn.Linear(32 * 49, 6),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(6, 6),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(6, 3),
    )
    ours = VGG11(3, (224, 224), 3, width=4, units=6)
    state = {name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()}
    ours.load_state_dict(state)
    for module in theirs.features.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    inputs = torch.randn(2, 3, 224, 224)
    assert torch.equal(ours.eval()(inputs), theirs.eval()(inputs))


def test_a_narrow_vgg_with_its_dropout() -> None:
    options = {"width": 2, "units": 5, "dropout": 0.9}
    model = open_model("vgg11", num_classes=3, input_shape=(1, 64, 33), options=options)
    inputs = torch.randn(4, 1, 64, 33)
    assert model(inputs).shape == (4, 3)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))
    with pytest.raises(InputError, match="31 x 64 are too small; give 32 x 32"):
        VGG11(1, (31, 64), 2)


def test_mlp_is_the_papers() -> None:
    model = open_model("mlp", num_classes=7, input_shape=(1, 4, 4))
    assert isinstance(model, MLP)
    assert [
        (layer.in_features, layer.out_features) for layer in model.layers if isinstance(layer, nn.Linear)
    ] == [
        (16, 1024),
        *[(1024, 1024)] * 9,
        (1024, 7),
    ]
    assert sum(isinstance(norm, nn.BatchNorm1d) for norm in model.norms) == 10


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision/resnet18", (3, 32, 32)),
        ("timm/deit_tiny_patch16_224", (3, 224, 224)),
        ("timm/resnet10t", (1, 32, 32)),
    ],
)
def test_libraries_have_the_outputs_asked_for(name: str, shape: tuple[int, ...]) -> None:
    model = open_model(name, num_classes=5, input_shape=shape).eval()
    assert model(torch.zeros(1, *shape)).shape == (1, 5)


def test_weights_follow_from_the_seed_alone(builders: Path) -> None:
    name = f"{builders}:small"
    torch.manual_seed(1)
    first = open_model(name, num_classes=2, input_shape=(5,), seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    second = open_model(name, num_classes=2, input_shape=(5,), seed=3)
    other = open_model(name, num_classes=2, input_shape=(5,), seed=4)
    weights = [model.state_dict()["1.weight"] for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    sizes = {
        open_model(f"{builders}:fixed", num_classes=2, input_shape=(5,)).state_dict()["bias"].shape
        for _ in "ab"
    }
    assert len(sizes) == 1


def test_every_generator_is_left_as_it_was() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), float(np.random.rand())  # noqa: NPY002 (the shared generator)

    with seeded(1):
        first, second = draw(), draw()
    with seeded(1):
        assert draw() == first
        with pytest.raises(ValueError, match="halfway"), seeded(2):
            raise ValueError(f"halfway {draw()}")
        assert draw() == second


def test_functions_are_given_what_they_accept(builders: Path) -> None:
    assert isinstance(open_model(f"{builders}:fixed", num_classes=2, input_shape=(5,)), nn.Linear)
    everything = open_model(f"{builders}:everything", num_classes=2, input_shape=(5,))
    assert everything.state_dict()["bias"].shape == (2,)


def test_functions_that_fail_are_named(builders: Path) -> None:
    message = refusal(f"{builders}:broken")
    assert message.startswith(f"{builders}:broken: nets.py, line 18: KeyError: ")
    assert "nets.py, line 21: SystemExit: " in refusal(f"{builders}:quits")
    assert "wrong returns a int" in refusal(f"{builders}:wrong")
    assert "number is a int" in refusal(f"{builders}:number")
    assert "did you mean 'small'" in refusal(f"{builders}:smal")
    assert "names no function" in refusal(str(builders))
    assert "no such file" in refusal(f"{builders}x.py:small")
    builders.write_text("def f(:\n")
    assert "nets.py, line 1: SyntaxError: " in refusal(f"{builders}:f")
    builders.write_text("import nowhere_to_be_found\n")
    assert "nets.py, line 1: ModuleNotFoundError: " in refusal(f"{builders}:f")


def test_unknown_names() -> None:
    assert "did you mean 'mlp'" in refusal("mlpp")
    assert "known: mlp, convnet" in refusal("zzz")
    assert "or 'torchvision/resnet18'?" in refusal("resnet18")
    assert "'resnet18'" in refusal("torchvision/resnet19")
    assert "of torchvision" in refusal("torchvision/fasterrcnn_resnet50_fpn")
    assert "'deit_tiny_patch16_224'" in refusal("timm/deit_tiny_patch16_22")
    assert "of timm" in refusal("timm/hf-hub:timm/resnet18")


def test_inputs_that_do_not_suit() -> None:
    assert "takes images, but inputs have shape (64,)" in refusal("convnet", input_shape=(64,))
    assert "224 x 224 but these have 8 x 8" in refusal("timm/deit_tiny_patch16_224")
    assert "3 channels but these have 1" in refusal("torchvision/resnet18", input_shape=(1, 8, 8))


def test_requirements() -> None:
    assert required_image_size("timm/deit_tiny_patch16_224") == (224, 224)
    assert required_image_size("torchvision/vit_b_16") == (224, 224)
    for name in ("mlp", "convnet", "vgg11", "torchvision/resnet18", "timm/resnet18", "x.py:f"):
        assert required_image_size(name) is None
    assert required_channels("torchvision/resnet18") == required_channels("timm/resnet18") == 3
    assert required_channels("mlp") is required_channels("convnet") is required_channels("x.py:f") is None


def test_a_network_of_timm_is_built_for_another_image_size() -> None:
    name, options = "timm/deit_tiny_patch16_224", {"img_size": 32}
    assert required_image_size(name, options) == (32, 32)
    model = open_model(name, num_classes=3, input_shape=(3, 32, 32), options=options)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert required_image_size(name, {"img_size": [32, 48]}) == (32, 48)
    for wrong in (0, "32", [32], [32, -1], True):
        with pytest.raises(InputError, match="is not an image size; give one number, or height and width"):
            required_image_size(name, {"img_size": wrong})
    with pytest.raises(InputError, match="takes images of 32 x 32 but these have 224 x 224"):
        open_model(name, num_classes=3, input_shape=(3, 224, 224), options=options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"width": 2**20, "depth": 10_000}, "GiB of this machine"),
        ("mlp", {"width": 0}, "width 0: give a whole number from 1"),
        ("mlp", {"width": 8.5}, "width 8.5"),
        ("mlp", {"depth": True}, "depth True"),
        ("mlp", {"dropout": float("nan")}, "dropout nan"),
        ("mlp", {"dropout": "much"}, "dropout much"),
        ("convnet", {"width": 2**20}, "GiB of this machine"),
        ("convnet", {"depth": -1}, "depth -1"),
        ("vgg11", {"width": 2**20}, "GiB of this machine"),
        ("vgg11", {"units": 0}, "units 0"),
        ("vgg11", {"dropout": 1.0}, "dropout 1.0"),
        ("vgg11", {"depth": 3}, "cannot be built with depth=3"),
        ("timm/vit_tiny_patch16_224", {"depth": 10**6}, "depth 1000000"),
        ("timm/resnet10t", {"layers": "three"}, "cannot be built with layers='three'"),
    ],
)
def test_sizes_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    shape = (3, 8, 8) if name in ("mlp", "convnet") else (3, 224, 224)
    with pytest.raises(InputError) as caught:
        open_model(name, num_classes=3, input_shape=shape, options=options)
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 300
