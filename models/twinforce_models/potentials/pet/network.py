"""The network of a PET with the weights and layers of metatrain, one row per atom and per edge.

metatrain pads the tokens of every atom to the largest number of tokens. Here, operations on single
tokens skip the padding; only attention, which compares the tokens of an atom, uses the padded grid.
Products of weights that are linear in the geometry or depend on the element alone are computed when
the model is loaded. The results agree with metatrain's except for rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
from metatrain.pet.modules.transformer import AttentionBlock, FeedForward, TransformerLayer
from torch import Tensor
from torch.nn import functional

from twinforce_models.potentials.pet.edges import Edges

_MAX_ATOMS = 65535
"""Largest number of atoms for the backward pass of CUDA's attention."""

Features = list[tuple[Tensor, Tensor]]
"""Features of the atoms and of the edges, for each layer that the heads read."""


class PetNetwork:
    """A network that computes features of atoms and edges, and its heads.

    Attributes:
        backend: metatrain's network, whose weights must not change any more.
    """

    def __init__(self, backend: Any) -> None:
        """Prepare the weights for evaluation."""
        self.backend = backend
        with torch.no_grad():
            first = backend.edge_embedder.weight
            self._inputs = [
                _input_of(layer, first if layer.is_first else None) for layer in backend.gnn_layers
            ]

    def features(self, edges: Edges, condition: Tensor | None) -> Features:
        """Return the features of atoms and edges.

        Args:
            edges: Edges of the batch.
            condition: Embedding of charge and spin, which is added to the features of each atom
                after each layer, or None.
        """
        backend = self.backend
        is_chain = backend.featurizer_type == "feedforward"
        messages = functional.embedding(edges.neighbor_kinds, backend.edge_embedder.weight)
        found: Features = []
        nodes = backend.node_embedders[0](edges.kinds)
        for index, layer in enumerate(backend.gnn_layers):
            if index and not is_chain:
                nodes = backend.node_embedders[index](edges.kinds)
            nodes, sent = self._layer(index, layer, nodes, messages, edges)
            if condition is not None:
                nodes = nodes + condition
            returned = edges.of_reverse(sent)
            if is_chain:
                both = backend.combination_norms[index](torch.cat([sent, returned], dim=1))
                messages = messages + sent + backend.combination_mlps[index](both)
                found = [(nodes, messages)]
            else:
                messages = (messages + returned) / 2
                found.append((nodes, sent))
        return found

    def read(self, name: str, features: Features, edges: Edges) -> Tensor:
        """Return the output of the heads of a target for each atom, shape [n_atoms, n]."""
        backend = self.backend
        total: Tensor | None = None
        for index, (nodes, messages) in enumerate(features):
            of_nodes, of_edges = (
                next(iter(last[name][index].values()))(head[name][index](values))
                for head, last, values in (
                    (backend.node_heads, backend.node_last_layers, nodes),
                    (backend.edge_heads, backend.edge_last_layers, messages),
                )
            )
            weighted = of_edges * edges.factors.unsqueeze(1)
            own = of_nodes + edges.sum_to_atoms(weighted)
            total = own if total is None else total + own
        assert total is not None
        return total

    def _layer(
        self, index: int, layer: Any, nodes: Tensor, messages: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor]:
        """Return the features of atoms and edges after a message-passing layer."""
        tokens = self._inputs[index](edges, messages)
        tokens = layer.compress[2](layer.compress[1](tokens))
        for block in layer.trans.layers:
            step = _pre_norm if block.transformer_type == "PreLN" else _post_norm
            nodes, tokens = step(block, nodes, tokens, edges)
        return nodes, tokens


def _input_of(layer: Any, first: Tensor | None) -> Callable[[Edges, Tensor], Tensor]:
    """Return a function that computes the argument of the first activation in a layer.

    Args:
        layer: Layer whose first linear map takes an embedding of the geometry, an embedding of the
            element of the neighbor (except in the first layer), and the message.
        first: Messages of the first layer, one for each element. None for the other layers.
    """
    linear, geometry = layer.compress[0], layer.edge_embedder
    width = geometry.out_features
    of_geometry, *of_elements, of_messages = linear.weight.split(width, dim=1)
    matrix = (of_geometry @ geometry.weight).T.contiguous()
    table = linear.bias + of_geometry @ geometry.bias
    if first is not None:
        table = table + first @ of_messages.T
        return lambda edges, _: torch.addmm(
            table.index_select(0, edges.neighbor_kinds), edges.geometry, matrix
        )
    table = table + layer.neighbor_embedder.weight @ of_elements[0].T
    transposed = of_messages.T.contiguous()
    return lambda edges, messages: torch.addmm(
        torch.addmm(table.index_select(0, edges.neighbor_kinds), edges.geometry, matrix),
        messages,
        transposed,
    )


def _pre_norm(
    block: TransformerLayer, nodes: Tensor, edge_tokens: Tensor, edges: Edges
) -> tuple[Tensor, Tensor]:
    tokens = torch.cat([block.center_contraction(nodes), edge_tokens])
    tokens = _attend(block.attention, block.norm_attention(tokens), edges)
    centers, attended = tokens.split([len(nodes), len(edge_tokens)])
    edge_tokens = edge_tokens + attended
    edge_tokens = edge_tokens + _feed_forward(block.mlp, block.norm_mlp(edge_tokens))
    return _expanded(block, nodes, centers), edge_tokens


def _post_norm(
    block: TransformerLayer, nodes: Tensor, edge_tokens: Tensor, edges: Edges
) -> tuple[Tensor, Tensor]:
    tokens = torch.cat([block.center_contraction(nodes), edge_tokens])
    tokens = block.norm_attention(tokens + _attend(block.attention, tokens, edges))
    tokens = block.norm_mlp(tokens + _feed_forward(block.mlp, tokens))
    centers, attended = tokens.split([len(nodes), len(edge_tokens)])
    return _expanded(block, nodes, centers), attended


def _expanded(block: TransformerLayer, nodes: Tensor, centers: Tensor) -> Tensor:
    if not block.expanded_node_features:
        return centers
    nodes = nodes + block.center_expansion(centers)
    return nodes + _feed_forward(block.center_mlp, block.norm_center_features(nodes))


def _feed_forward(module: FeedForward, values: Tensor) -> Tensor:
    """Return the output of metatrain's module, with its gate as a single operation."""
    if not module.is_swiglu:
        result: Tensor = module(values)
        return result
    gated: Tensor = module.w_out(functional.glu(module.w_in(values), dim=-1))
    return gated


def _attend(block: AttentionBlock, tokens: Tensor, edges: Edges) -> Tensor:
    """Return the attention among the tokens of each atom; shape [n_tokens, d] in and out."""
    n_atoms, width = edges.log_weights.shape
    values = edges.to_grid(block.input_linear(tokens))
    values = values.view(n_atoms, width, 3, block.num_heads, block.head_dim)
    query, key, value = values.permute(2, 0, 3, 1, 4)
    scale = 1 / (block.head_dim**0.5 * block.temperature)
    attention = plain_attention if tokens.device.type == "cpu" else fused_attention
    attended = attention(query * scale, key, value, edges.log_weights)
    rows = attended.transpose(1, 2).reshape(n_atoms, width, -1)
    result: Tensor = block.output_linear(edges.from_grid(rows))
    return result


def plain_attention(query: Tensor, key: Tensor, value: Tensor, log_weights: Tensor) -> Tensor:
    """Return softmax(query keyᵀ + log_weights) value, evaluated term by term.

    On a CPU, this is faster than fused attention for few and short tokens.

    Args:
        query: Scaled queries, shape [n_atoms, n_heads, width, d].
        key: Keys of the same shape.
        value: Values of the same shape.
        log_weights: Logarithm of the weight of each key, shape [n_atoms, width].
    """
    scores = query @ key.transpose(2, 3)
    return scores.add_(log_weights[:, None, None, :]).softmax(dim=-1) @ value


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_weights: Tensor,
    n_atoms_at_once: int = _MAX_ATOMS,
) -> Tensor:
    """Return the same as `plain_attention`, without storing all scores."""
    mask = log_weights[:, None, None, :].expand(-1, -1, query.shape[2], -1)
    parts = (values.split(n_atoms_at_once) for values in (query, key, value, mask))
    return torch.cat(
        [
            functional.scaled_dot_product_attention(q, k, v, attn_mask=m, scale=1.0)
            for q, k, v, m in zip(*parts, strict=True)
        ]
    )
