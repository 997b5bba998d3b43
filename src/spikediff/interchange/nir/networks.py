"""Convert networks to graphs: follow their forward passes and add nodes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from spikediff.interchange.nir.graph import GraphBuilder, Parts, fold
from spikediff.layers import ConvNorm, SpikingLayer, embed_classes, one_or_each
from spikediff.systems.sddpm.blocks import PlainBlock, PreSpikeBlock
from spikediff.systems.sddpm.network import SpikingUNet

Shape = tuple[int, int]


class Lowering(NamedTuple):
    """The conversion of a class of networks to a graph."""

    # Adds the nodes of a network for an input size, a timestep and a class label [1] or None;
    # returns its output at every spiking step.
    walk: Callable[[GraphBuilder, Any, Shape, Any, Tensor | None], Parts]
    readout: Callable[[Any], str]  # name of the readout that turns these currents into the estimate
    depends_on_time: bool  # whether its weights depend on the timestep


def _walk_decoder(
    graph: GraphBuilder,
    model: Any,
    size: Shape,
    _timestep: object,
    label: Tensor | None,
) -> Parts:
    """Add `last(cat(layers(x), layers[0](x)))`; the host embeds tokens and class as vectors."""
    classes = embed_classes(model.class_embedding, label, 1, model.device)  # [1, C], or 0
    layers: Sequence[SpikingLayer] = list(model.layers)
    spikes: Parts = []
    early: Parts = []
    for number, layer in enumerate(layers):
        assert isinstance(layer.synapse, nn.Conv2d)
        kernel, name = fold(layer.synapse, layer.norm), f"layers.{number}"
        if number:
            current = graph.conv(f"{name}.synapse", kernel, spikes)
        else:
            shape = (layer.synapse.in_channels, *size)
            current = graph.first_conv(f"{name}.synapse", kernel, shape)
        spikes = graph.fire(f"{name}.neuron", layer.neuron, current)
        early = early or spikes
    if "embedding" in dict(model.named_children()):
        graph.host["embedding"] = (model.embedding.weight + classes).detach()
    return graph.conv("last", fold(model.last), [*spikes, *early])


def _walk_unet(
    graph: GraphBuilder, model: SpikingUNet, size: Shape, timestep: Any, label: Tensor | None
) -> Parts:
    """Add a U-Net of one resolution; timestep and class are a bias in every block."""
    embedding = model.time_embedding(one_or_each("timestep", timestep, 1, model.device))
    embedding = embedding + embed_classes(model.class_embedding, label, 1, model.device)
    channels = model.stem.encode.conv.in_channels  # those of a patch
    h = _stem(graph, model.stem, (channels, *(side // model.config.patch_size for side in size)))
    skips = [h]
    for number, block in enumerate(model.down_blocks):
        h = _step(graph, f"down_blocks.{number}", block, h, embedding)
        skips.append(h)
    for number, block in enumerate(model.middle_blocks):
        h = _step(graph, f"middle_blocks.{number}", block, h, embedding)
    for number, block in enumerate(model.up_blocks):
        h = _step(graph, f"up_blocks.{number}", block, [*h, *skips.pop()], embedding)
    head: Any = model.head
    spikes = graph.fire("head.neuron", head.neuron, h)
    return graph.conv("head.conv", fold(head.conv, scaling=head.scaling), spikes)


def _stem(graph: GraphBuilder, stem: Any, shape: tuple[int, ...]) -> Parts:
    encode: ConvNorm = stem.encode
    kernel = fold(encode.conv, encode.norm, encode.scaling)
    current = graph.first_conv("stem.encode.conv", kernel, shape)
    spikes = graph.fire("stem.neuron", stem.neuron, current)
    current = _conv_norm(graph, "stem.synapse", stem.synapse, spikes)
    return graph.fire("stem.last_neuron", stem.last_neuron, current)


def _step(graph: GraphBuilder, name: str, block: nn.Module, x: Parts, embedding: Tensor) -> Parts:
    assert isinstance(block, PreSpikeBlock | PlainBlock)
    bias = block.timestep_bias(embedding)[0, :, 0, 0]  # [C]
    if isinstance(block, PreSpikeBlock):
        h = graph.fire(f"{name}.neuron1", block.neuron1, x)
        h = _conv_norm(graph, f"{name}.synapse1", block.synapse1, h, bias)
        h = graph.fire(f"{name}.neuron2", block.neuron2, h)
        return _plus_shortcut(graph, name, block, h, x)
    h = _conv_norm(graph, f"{name}.synapse1", block.synapse1, x, bias)
    h = graph.fire(f"{name}.neuron1", block.neuron1, h)
    return graph.fire(f"{name}.neuron2", block.neuron2, _plus_shortcut(graph, name, block, h, x))


def _plus_shortcut(
    graph: GraphBuilder, name: str, block: PreSpikeBlock | PlainBlock, h: Parts, x: Parts
) -> Parts:
    """Return `synapse2(h) + shortcut(x)`, in the parts of x if the shortcut is the identity."""
    shortcut = block.shortcut
    if isinstance(shortcut.conv, nn.Conv2d):
        x = graph.conv(f"{name}.shortcut.conv", fold(shortcut.conv, None, shortcut.scaling), x)
    kernel = fold(block.synapse2.conv, block.synapse2.norm, block.synapse2.scaling)
    current = graph.conv(f"{name}.synapse2.conv", kernel, h, [part.shape[0] for part in x])
    return [a + b for a, b in zip(current, x, strict=True)]


def _conv_norm(
    graph: GraphBuilder, name: str, layer: ConvNorm, parts: Parts, bias: Tensor | None = None
) -> Parts:
    kernel = fold(layer.conv, layer.norm, layer.scaling, bias)
    return graph.conv(f"{name}.conv", kernel, parts)


LOWERINGS: dict[str, Lowering] = {
    "SpikingImageDecoder": Lowering(_walk_decoder, lambda _model: "mean", False),
    "SpikingUNet": Lowering(_walk_unet, lambda model: model.config.readout, True),
}
"""By the name of the network's class."""
