"""What of a tower's body learns when not all of it does: its last blocks, or low-rank adapters (LoRA).

An adapter adds SCALE * B A to the matrix W of a projection; B A has few rows, only A and B learn, and B begins at zero, so
that the model begins as it was (Hu et al. 2021, arXiv 2106.09685). The layers are peft's. Its layer for
`nn.MultiheadAttention` is not used (0.21.2): it adds the adapter of out_proj twice and differentiates it once, and every
forward adds to the base weights and takes off again, so they drift by rounding and each graph keeps a copy of them.
`SplitAttention` computes the same attention with two linear layers instead, which take peft's linear adapters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from honeclip.errors import ConfigError
from honeclip.model import recompute, towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.towers import Tower, image_tower, text_tower

SCALE = 2
"""The factor on B A, for every rank: peft's lora_alpha is SCALE times the rank. Stored adapters are merged with it."""

ADAPTER, FIRST = ".lora_", ".lora_A.default.weight"
"""What names of adapters contain, and how the name of an A ends."""


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` with its projections as layers: torch's own never calls out_proj and has no in_proj.

    Args:
        whole: the attention in whose place this one stands, with which it shares its parameters.
    """

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj = nn.Linear(whole.embed_dim, 3 * whole.embed_dim, bias=False, device="meta")
        self.in_proj.register_parameter("weight", whole.in_proj_weight)
        self.in_proj.register_parameter("bias", cast("nn.Parameter | None", whole.in_proj_bias))
        self.out_proj = whole.out_proj
        self.heads, self.dropout, self.batch_first = whole.num_heads, whole.dropout, whole.batch_first
        self.__dict__["_whole"] = whole  # no child: its parameters would appear twice

    def whole(self) -> nn.MultiheadAttention:
        """The attention that this one replaced, with the layers as they are now."""
        whole: nn.MultiheadAttention = self.__dict__["_whole"]
        whole.register_parameter("in_proj_weight", cast(nn.Parameter, self.in_proj.weight))
        whole.register_parameter("in_proj_bias", cast("nn.Parameter | None", self.in_proj.bias))
        whole.out_proj = self.out_proj
        return whole.train(self.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attention as open_clip asks for it: (B, L, E), or (L, B, E) where `batch_first` is False; no weights."""
        assert not need_weights
        projected = self._projected(query, key, value)
        ordered = projected if self.batch_first else tuple(one.transpose(0, 1) for one in projected)
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in ordered)
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.heads))
        dropout = self.dropout if self.training else 0.0
        # looked up at each call: `attention.sliced` routes this very name
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask, dropout).transpose(1, 2).flatten(2)
        return self.out_proj(mixed if self.batch_first else mixed.transpose(0, 1)), None

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if query is key is value:
            together: tuple[Tensor, ...] = self.in_proj(query).chunk(3, dim=-1)
            return together
        return tuple(self.in_proj(one).chunk(3, dim=-1)[place] for place, one in enumerate((query, key, value)))


# --- LoRA ---------------------------------------------------------------------------------------------------------


def add_lora(clip: Clip, rank: int, seed: int) -> int:
    """Gives adapters to the projections of both bodies, which then learn through them alone; heads and scale still do.

    Adapters go to what a body's forward really calls and whose weight learns now: linear layers, the projections of
    attention, and 1x1 convolutions. Where a tower is frozen, or all but its last blocks, those parts get none.

    Args:
        clip: changed in place; `merge_lora` is the way back.
        rank: rows of each A.
        seed: of the new A, which are drawn on the CPU, the same on every device and in every precision.

    Returns:
        The number of adapted projections.

    Raises:
        ConfigError: no projection that could be adapted learns.
    """
    names = _adaptable(clip)
    if not names:
        raise ConfigError(
            f"model.lora_rank = {rank}: {clip.source} has no projection that learns and could be adapted; use 0"
        )
    _inject(clip, names, rank)
    generator = torch.Generator().manual_seed(seed)
    for name, one in clip.model.named_parameters():
        if name.endswith(FIRST):
            bound = (one.numel() / rank) ** -0.5  # torch's own start for a linear layer, which peft takes too
            one.data.copy_(clip.device.copy(torch.empty(one.shape).uniform_(-bound, bound, generator=generator)))
    for tower in (image_tower(clip), text_tower(clip)):
        body = {id(one) for one in tower.parameters_body()}
        for name, one in clip.model.named_parameters():
            if id(one) in body and not is_adapter(name):
                one.requires_grad_(False)
    return len(names)


@torch.no_grad()
def merge_lora(clip: Clip) -> None:
    """Adds every adapter to its matrix, which leaves open_clip's own modules and names; without adapters nothing happens."""
    if not is_adapted(name for name, _ in clip.model.named_parameters()):
        return
    from peft.tuners.lora import LoraLayer  # it takes most of a second, which only runs with adapters shall pay

    for name, module in list(clip.model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            clip.model.set_submodule(name, module.get_base_layer())
    for name, module in list(clip.model.named_modules()):
        if isinstance(module, SplitAttention):
            clip.model.set_submodule(name, module.whole())


def install_empty(clip: Clip, weights: Mapping[str, Tensor]) -> None:
    """Puts adapters of the right shapes where stored weights have some, for weights that are loaded next."""
    ranks = {name.removesuffix(FIRST): len(value) for name, value in weights.items() if name.endswith(FIRST)}
    _inject(clip, list(ranks), max(ranks.values()))


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter."""
    return ADAPTER in name


def is_adapted(names: Iterable[str]) -> bool:
    """Whether a state_dict (or its names) is that of a model with adapters."""
    return any(is_adapter(name) for name in names)


def _inject(clip: Clip, names: list[str], rank: int) -> None:
    """peft's layers around the named projections; which parameters learn does not change."""
    from peft import LoraConfig, inject_adapter_in_model

    model = clip.model
    for parent in sorted({name.rpartition(".")[0] for name in names}):
        if isinstance(whole := model.get_submodule(parent), nn.MultiheadAttention):
            model.set_submodule(parent, SplitAttention(whole))
    learning = {id(one) for one in model.parameters() if one.requires_grad}
    before = {id(one) for one in model.parameters()}
    # as a pattern: in a list a name would stand for all that end like it
    pattern = "|".join(re.escape(name) for name in names)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=pattern), model)
    for one in model.parameters():
        one.requires_grad_(id(one) in learning or id(one) not in before)
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # under autocast it would only make a float32 copy on the way


def _adaptable(clip: Clip) -> list[str]:
    """Names of the projections that one forward of each body calls and whose weights learn, in the model's order."""
    called: set[int] = set()
    size = clip.preprocess.size_px
    with measuring(clip):
        hooks = [
            module.register_forward_hook(lambda module, *_: called.add(id(module)))
            for module in clip.model.modules()
            if _is_projection(module)
        ]
        try:
            image_tower(clip).body(torch.zeros(1, 3, size, size, dtype=clip.dtype, device=clip.device.handle))
            text_tower(clip).body(clip.device.copy(towers.probes(clip.model, clip.preprocess.context_length, rows=1)))
        finally:
            for hook in hooks:
                hook.remove()
    names: list[str] = []
    for name, module in clip.model.named_modules():
        if id(module) not in called:
            continue
        if isinstance(module, nn.MultiheadAttention):
            names += [f"{name}.in_proj", f"{name}.out_proj"] if module.in_proj_weight.requires_grad else []
        elif module.weight.requires_grad:
            names.append(name)
    return names


def _is_projection(module: Any) -> bool:
    """What can have an adapter: a matrix, in one of the forms that towers give it."""
    if isinstance(module, nn.MultiheadAttention):
        return module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
    if type(module) is nn.Conv2d:
        return module.kernel_size == (1, 1) and module.groups == 1 and module.padding == (0, 0)
    return isinstance(module, nn.Linear)


# --- depth --------------------------------------------------------------------------------------------------------


def heights(tower: Tower) -> tuple[int, dict[int, int]]:
    """How high each parameter of a tower stands.

    Returns:
        The number of blocks n, and by the parameter's id: 0 before the blocks (patches, embeddings), k in the k-th block
        and in what leads to it from the one before, n + 1 after the last and in the head.
    """
    model: Any = tower.model
    module = model.visual if tower.name == "image" else getattr(model, "text", None) or model.transformer
    blocks = recompute.blocks(module)
    inside = {id(one): place for place, block in enumerate(blocks, 1) for one in block.parameters()}
    tables = {id(one.weight) for one in model.modules() if isinstance(one, nn.Embedding)}
    found, reached = {}, 0
    for one in tower.parameters_body():
        # a native CLIP has its table of tokens after the blocks
        between = 0 if id(one) in tables or not reached else reached + 1
        found[id(one)] = inside.get(id(one), between)
        reached = max(reached, inside.get(id(one), 0))
    return len(blocks), found | {id(one): len(blocks) + 1 for one in tower.parameters_head()}


def keep_last(clip: Clip, count: int, frozen: frozenset[str]) -> None:
    """Of the towers that learn, only the last `count` blocks, what follows them and the heads go on learning.

    Args:
        clip: changed in place.
        count: at least 1.
        frozen: towers that do not learn at all.

    Raises:
        ConfigError: a tower has fewer blocks.
    """
    for tower in (image_tower(clip), text_tower(clip)):
        if tower.name in frozen:
            continue
        blocks, height = heights(tower)
        if blocks < count:
            has = f"has {blocks} blocks: give at most {blocks}" if blocks else "has no blocks that are known"
            raise ConfigError(
                f"model.last_blocks = {count}: the {tower.name} tower of {clip.source} {has}, 0 for all of it, or "
                f"model.freeze={tower.name}"
            )
        for one in tower.parameters_body():
            if height[id(one)] <= blocks - count:
                one.requires_grad_(False)
