"""Thirty small architectures of three libraries, with random weights, and a few layers of each.

A layer that is neither linear nor a convolution is followed by the place of its channels in what it reads: `maps`
(n, c, …) or `tokens` (n, …, c). Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """How a network is built and what is measured of it.

    Attributes:
        build: returns the network with three classes.
        layers: names, each with the place of its channels where its class does not tell it; the last is the classifier.
        inputs: `images`, `text` or `sound`.
        reduces_tokens: whether some layer reads tokens, so that `mean` and `token` differ from `flatten`.
    """

    build: Callable[[], nn.Module]
    layers: str
    inputs: str = "images"
    reduces_tokens: bool = True

    @property
    def places(self) -> dict[str, str]:
        """Place of the channels by name of the layer; empty for linear layers and convolutions."""
        return {name: place for name, _, place in (text.partition(":") for text in self.layers.split())}


def library(name: str) -> Any:
    return pytest.importorskip(name)


def vision(name: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(library("torchvision.models"), name)(*args, num_classes=3, **kwargs)


def residual(block: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        resnet = library("torchvision.models.resnet")
        return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=3, **kwargs)

    return build


def convnext() -> nn.Module:
    models = library("torchvision.models.convnext")
    blocks = [models.CNBlockConfig(8, 16, 1), models.CNBlockConfig(16, None, 1)]
    return models.ConvNeXt(blocks, num_classes=3)


def vit(**kwargs: Any) -> Callable[[], nn.Module]:
    return vision(
        "VisionTransformer",
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=24,
        **kwargs,
    )


def timm_model(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: library("timm").create_model(name, num_classes=3, **kwargs)


def mixer(**kwargs: Any) -> nn.Module:
    return library("timm.models.mlp_mixer").MlpMixer(
        num_classes=3, img_size=32, patch_size=8, num_blocks=2, embed_dim=12, **kwargs
    )


def gated_mixer() -> nn.Module:
    block = library("timm.models.mlp_mixer").SpatialGatingBlock
    return mixer(mlp_ratio=6, block_layer=block, mlp_layer=library("timm.layers").GatedMlp)


def residual_mixer() -> nn.Module:
    models = library("timm.models.mlp_mixer")
    block = partial(models.ResBlock, init_values=0.1)
    return mixer(mlp_ratio=4, block_layer=block, norm_layer=models.Affine)


def big_transfer() -> nn.Module:
    layers = library("timm.layers")
    return library("timm.models.resnetv2").ResNetV2(
        layers=(1, 1), channels=(32, 64), stem_chs=16, num_classes=3, conv_layer=partial(layers.StdConv2d, eps=1e-8),
        norm_layer=partial(layers.GroupNormAct, num_groups=4),
    )  # fmt: skip


def poolformer() -> nn.Module:
    models = library("timm.models.metaformer")
    return models.MetaFormer(
        num_classes=3, depths=(1, 1), dims=(8, 16), token_mixers=models.Pooling, mlp_act=nn.GELU, mlp_bias=True,
        norm_layers=models.GroupNorm1, layer_scale_init_values=0.1, res_scale_init_values=None, use_mlp_head=False,
    )  # fmt: skip


def convmixer() -> nn.Module:
    models = library("timm.models.convmixer")
    return models.ConvMixer(dim=16, depth=2, kernel_size=3, patch_size=4, num_classes=3)


def hub(name: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    """A network of `transformers`, from its configuration."""

    def build() -> nn.Module:
        transformers = library("transformers")
        kind = getattr(transformers, name)
        return kind(kind.config_class(num_labels=3, **config))

    return build


TEXT = {
    "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 16, "pad_token_id": 0,
}  # fmt: skip
PATCHES = {
    "image_size": 32, "patch_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}

ARCHITECTURES: dict[str, Architecture] = {
    # ------------------------------------------------------------ torchvision
    "resnet": Architecture(
        residual("BasicBlock"), "layer1.0.bn1:maps layer2.0.conv2 layer3:maps avgpool:maps fc", reduces_tokens=False
    ),
    "resnext": Architecture(
        residual("Bottleneck", groups=4, width_per_group=8),
        "layer2.0.conv2 layer3.0.downsample.0 layer4.0.bn3:maps fc", reduces_tokens=False,
    ),
    "densenet": Architecture(
        vision("DenseNet", growth_rate=4, block_config=(2, 2), num_init_features=8),
        "features.denseblock1.denselayer2.conv1 features.transition1:maps features.norm5:maps classifier",
        reduces_tokens=False,
    ),
    "squeezenet": Architecture(
        vision("squeezenet1_1"), "features.2:maps features.6.squeeze features.8:maps classifier.1", reduces_tokens=False
    ),
    "mobilenet v2": Architecture(
        vision("mobilenet_v2", width_mult=0.25),
        "features.3.conv.1.0 features.8:maps features.18.1:maps classifier.1", reduces_tokens=False,
    ),
    "mobilenet v3": Architecture(
        vision("mobilenet_v3_small", width_mult=0.5),
        "features.4.block.1.2:maps features.5.block.2.fc1 classifier.0 classifier.1:maps classifier.3",
        reduces_tokens=False,
    ),
    "shufflenet": Architecture(
        vision("shufflenet_v2_x0_5"), "maxpool:maps stage2.1.branch2.3 stage3.0:maps fc", reduces_tokens=False
    ),
    "mnasnet": Architecture(
        vision("MNASNet", 0.35), "layers.8.0:maps layers.9.1.layers.3 classifier.1", reduces_tokens=False
    ),
    "convnext": Architecture(
        convnext, "features.0.1:maps features.1.0.block.2:tokens features.1.0.block.5 features.2.0:maps classifier.2"
    ),
    "swin": Architecture(
        vision("SwinTransformer", [2, 2], 8, [1, 1], [2, 2], [2, 2]),
        "features.0.1:maps features.1.0.norm1:tokens features.1.0.mlp.1:tokens features.2.reduction head",
    ),
    "vision transformer": Architecture(
        vit(), "conv_proj encoder.layers.encoder_layer_0.mlp.1:tokens encoder.layers.encoder_layer_1.mlp.3 encoder.ln:tokens heads.head"
    ),
    # ------------------------------------------------------------ timm
    "convmixer": Architecture(
        convmixer, "stem.1:maps blocks.0.0.fn.0 blocks.1.3:maps head", reduces_tokens=False
    ),
    "mlp mixer": Architecture(
        mixer, "blocks.0.norm1:tokens blocks.0.mlp_channels.fc2 blocks.1:tokens blocks.1.norm2:tokens head"
    ),
    "gated mlp": Architecture(
        gated_mixer, "blocks.0.mlp_channels.gate.norm:tokens blocks.1.norm:tokens blocks.1.mlp_channels.fc2 head"
    ),
    "residual mlp": Architecture(
        residual_mixer, "blocks.0.norm2:tokens blocks.1.norm1:tokens blocks.1.mlp_channels.fc1 head"
    ),
    "big transfer": Architecture(
        big_transfer, "stages.0.blocks.0.conv2 stages.1.blocks.0.conv3 norm:maps head.global_pool.pool:maps head.fc",
        reduces_tokens=False,
    ),
    "distilled deit": Architecture(
        timm_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2, embed_dim=12),
        "patch_embed.proj blocks.1.attn.qkv blocks.1.mlp.act:tokens norm:tokens",
    ),
    "beit": Architecture(
        timm_model("beit_base_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24),
        "blocks.0.norm2:tokens blocks.1.attn.proj blocks.1.mlp.act:tokens head",
    ),
    "cait": Architecture(
        timm_model("cait_xxs24_224", img_size=32, patch_size=8, depth=2, embed_dim=24),
        "blocks.0.mlp.act:tokens blocks.1.attn.proj blocks_token_only.1.norm1:tokens head",
    ),
    "xcit": Architecture(
        timm_model("xcit_nano_12_p8_224", img_size=32, depth=2, embed_dim=16),
        "patch_embed.proj.3:maps blocks.0.local_mp.act:maps blocks.0.norm2:tokens blocks.1.mlp.fc2 head",
    ),
    "pyramid": Architecture(
        timm_model("pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 2, 4)),
        "stages.0.blocks.0.mlp.act:tokens stages.1.downsample.norm:tokens stages.1.blocks.0.mlp.dwconv "
        "stages.2.blocks.0.norm2:tokens head",
    ),
    "poolformer": Architecture(
        poolformer, "stem.norm:maps stages.0.blocks.0.mlp.act:maps stages.1.downsample.norm:maps head.fc",
        reduces_tokens=False,
    ),
    # ------------------------------------------------------------ transformers
    "bert": Architecture(
        hub("BertForSequenceClassification", TEXT),
        "bert.encoder.layer.0.attention.self.query bert.encoder.layer.0.intermediate.intermediate_act_fn:tokens "
        "bert.encoder.layer.0.output.LayerNorm:tokens classifier",
        "text",
    ),
    "albert": Architecture(
        hub("AlbertForSequenceClassification", TEXT | {"embedding_size": 6}),
        "albert.embeddings.LayerNorm:tokens albert.encoder.embedding_hidden_mapping_in "
        "albert.encoder.albert_layer_groups.0.albert_layers.0.activation:tokens classifier",
        "text",
    ),
    "deberta": Architecture(
        hub("DebertaV2ForSequenceClassification", TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        "deberta.encoder.layer.0.attention.output.dense deberta.encoder.layer.0.intermediate.dense "
        "deberta.encoder.layer.0.output.LayerNorm:tokens classifier",
        "text",
    ),
    "gpt2": Architecture(
        hub("GPT2ForSequenceClassification", {"vocab_size": 40, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, "pad_token_id": 0,
            "bos_token_id": 0, "eos_token_id": 0}),
        "transformer.h.0.attn.c_attn transformer.h.0.mlp.act:tokens transformer.h.0.mlp.c_proj transformer.ln_f:tokens score",
        "text",
    ),
    "llama": Architecture(
        hub("LlamaForSequenceClassification", TEXT | {"num_key_value_heads": 1}),
        "model.layers.0.self_attn.o_proj model.layers.0.mlp.act_fn:tokens model.norm:tokens score", "text",
    ),
    "dinov2": Architecture(
        hub("Dinov2ForImageClassification", PATCHES),
        "dinov2.encoder.layer.0.norm2:tokens dinov2.encoder.layer.0.mlp.fc2 dinov2.layernorm:tokens classifier",
    ),
    "hierarchical": Architecture(
        hub("SwinForImageClassification", {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}),
        "swin.embeddings.norm:tokens swin.encoder.layers.0.blocks.0.mlp.activation_fn:tokens swin.pooler:maps classifier",
    ),
    "convnext of transformers": Architecture(
        hub("ConvNextForImageClassification", STAGES),
        "convnext.embeddings.layernorm:maps convnext.encoder.stages.0.layers.0.layernorm:tokens "
        "convnext.encoder.stages.1.layers.0.act:tokens convnext.encoder.stages.2.downsampling_layer.1 classifier",
    ),
    "speech": Architecture(
        hub(
            "Wav2Vec2ForSequenceClassification",
            {
                "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
                "conv_dim": (6, 7), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 4,
                "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 6,
            },
        ),
        "wav2vec2.feature_extractor.conv_layers.1.conv wav2vec2.feature_extractor.conv_layers.1.activation:maps "
        "wav2vec2.feature_projection.projection wav2vec2.encoder.pos_conv_embed.activation:maps projector classifier",
        "sound",
    ),
}  # fmt: skip
