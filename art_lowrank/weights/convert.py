"""`factorize` and `densify`: plain layers to low-rank ones and back, in place, in any tree of modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from art_lowrank.weights.energy import Plain, energies
from art_lowrank.weights.layers import FACTORS, LowRankConv2d, LowRankLayer, LowRankLinear
from art_lowrank.weights.ranks import RULES, Shape, allocate, by_energy, evenly

Module = TypeVar("Module", bound=nn.Module)


def factorize(
    model: nn.Module,
    *,
    keep: float = 0.2,
    ranks: str | Mapping[str, int] | None = None,
    data: Iterable[object] | None = None,
    skip: Iterable[str] = (),
    optimizer: Optimizer | None = None,
    fresh: bool = False,
) -> nn.Module:
    """Replace linear and convolution layers by low-rank ones, in place; returns the model (or what replaces its root).

    keep        the share of the model's parameters that is stored afterwards, in (0, 1]
    ranks       a rank by layer name, which overrules keep; or the rule that spends keep: "activation" (energy of the
                output on `data`, the default with data), "energy" (of the weight, the default without) or "uniform"
    data        images, or batches of them, of which a few hundred are enough
    skip        names of layers to leave as they are
    optimizer   its parameter groups get the factors in the place of the weights, state of the weights is dropped
    fresh       start from orthonormal factors with a flat spectrum instead of the truncated weights

    It truncates and nothing else: no bound is set and nothing trained. Layers whose factors would not save parameters
    stay dense, and so do depthwise convolutions, weights shared between layers, and subclasses of the two layers.
    """
    skipped = _known(model, skip)
    layers = {name: layer for name, layer in candidates(model).items() if name not in skipped}
    if not layers:
        raise ValueError("the model has no Linear or Conv2d layer to factorise (subclasses and skipped ones are left)")
    if isinstance(ranks, str) or ranks is None:
        chosen = chosen_ranks(model, layers, keep, _rule(ranks, data), data)
    else:
        chosen = given_ranks(layers, ranks)
    with nullcontext() if fresh else torch.random.fork_rng(devices=[]):
        made = {name: _low_rank(layers[name], rank, fresh) for name, rank in chosen.items()}
    for name, layer in made.items():
        exchange(optimizer, own_weight(layers[name]), [getattr(layer, factor) for factor in FACTORS])
        model = replaced(model, layers[name], layer)
    return model


def densify(model: nn.Module, *, pairs: bool = False, optimizer: Optimizer | None = None) -> nn.Module:
    """Plain layers again, in place, with the same logits; with `pairs` two plain layers each, as small as the factors.

    Pairs are for exporting a small net to what knows only torch's own layers.
    """
    for layer in list(low_rank_layers(model).values()):
        assert isinstance(layer, LowRankLinear | LowRankConv2d)
        plain = layer.pair() if pairs else layer.dense()
        weights = [own_weight(part) for part in plain.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        for weight in weights:
            weight.requires_grad_(layer.weight_s.requires_grad)
        exchange(optimizer, layer.weight_u, weights, also=[layer.weight_s, layer.weight_v])
        model = replaced(model, layer, plain)
    return model


def candidates(model: nn.Module) -> dict[str, Plain]:
    """The layers that can be factorised: torch's own two, not depthwise, their weight nobody else's and worth it."""
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    found = {}
    for name, layer in model.named_modules():
        if type(layer) not in (nn.Linear, nn.Conv2d) or "weight" not in layer._parameters:
            continue  # a subclass may hand its weight to other code; a reparametrised one has no weight of its own
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if uses[id(layer.weight)] > 1 or (isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels):
            continue
        found[name] = layer
    return found


def low_rank_layers(model: nn.Module) -> dict[str, LowRankLayer]:
    """The low-rank layers of a model by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LowRankLayer)}


def ranks_of(model: nn.Module | Mapping[str, Tensor]) -> dict[str, int]:
    """The rank of every low-rank layer of a model, or of a state_dict: `factorize(net, ranks=ranks_of(state))`."""
    if isinstance(model, nn.Module):
        return {name: layer.rank for name, layer in low_rank_layers(model).items()}
    ending = ".weight_u"
    return {key.removesuffix(ending): value.shape[1] for key, value in model.items() if key.endswith(ending)}


class Stored(NamedTuple):
    """Parameters of a model as it is, and of its dense twin."""

    now: int
    dense: int

    @property
    def share(self) -> float:
        """What factorize calls `keep`."""
        return self.now / self.dense


def stored(model: nn.Module) -> Stored:
    """How many parameters are stored, and how many the dense model has."""
    now = sum(p.numel() for p in model.parameters())
    layers = low_rank_layers(model).values()
    factors = sum(getattr(layer, name).numel() for layer in layers for name in FACTORS)
    return Stored(now, now - factors + sum(len(layer.weight_u) * len(layer.weight_v) for layer in layers))


def chosen_ranks(
    model: nn.Module, layers: Mapping[str, Plain], keep: float, rule: str, data: Iterable[object] | None
) -> dict[str, int]:
    """The ranks of those layers that become low-rank, so that at most `keep` of all parameters are stored."""
    check_keep(keep)
    shapes = {name: Shape(len(layer.weight), layer.weight[0].numel()) for name, layer in layers.items()}
    head = next(reversed(shapes))
    shapes = {name: shape for name, shape in shapes.items() if shape.limit}
    total = sum(p.numel() for p in model.parameters())
    fixed = total - sum(shape.dense for shape in shapes.values())
    room = int(keep * total + 1e-9) - fixed
    if room < (least := sum(shape.cost(1) for shape in shapes.values())):
        raise ValueError(
            f"keep={keep:g} cannot be reached: rank 1 in every layer and the parameters that are not factorised "
            f"take {(fixed + least) / total:.4f} of the model; give keep >= {_up((fixed + least) / total)}"
        )
    urgency = _urgency(rule, model, {name: layers[name] for name in shapes}, shapes, data)
    ranks = allocate(shapes, urgency, room, head if head in shapes else None)
    return {name: rank for name, rank in ranks.items() if rank <= shapes[name].limit}


def check_keep(keep: float) -> None:
    """A share in (0, 1]."""
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ValueError(f"keep is {keep!r}; give the share of the parameters to be stored, in (0, 1]")


def given_ranks(layers: Mapping[str, Plain], ranks: Mapping[str, int]) -> dict[str, int]:
    """The caller's ranks, checked."""
    for name, rank in ranks.items():
        if name not in layers:
            known = ", ".join(sorted(layers))
            raise ValueError(f"ranks names {name!r}, which is no layer that can be factorised; there are: {known}")
        rows, columns = len(layers[name].weight), layers[name].weight[0].numel()
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(rows, columns):
            raise ValueError(
                f"ranks[{name!r}] is {rank!r}; a {rows} x {columns} weight takes 1 to {min(rows, columns)}"
            )
    return dict(ranks)


def replaced(model: Module, old: nn.Module, new: nn.Module) -> Module | nn.Module:
    """The model with one module exchanged wherever it is used."""
    if model is old:
        return new
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return model


def _low_rank(layer: Plain, rank: int, fresh: bool) -> LowRankLayer:
    like: Callable[..., LowRankLayer] = LowRankLinear.like if isinstance(layer, nn.Linear) else LowRankConv2d.like
    made = like(layer, rank)
    if not fresh:
        made.take_(layer.weight)
    elif layer.bias is not None and made.bias is not None:
        layer.bias.data.copy_(made.bias)
    made.register_parameter("bias", own_bias(layer))  # the same parameter: an optimizer keeps it with its state
    for name in FACTORS:
        getattr(made, name).requires_grad_(layer.weight.requires_grad)
    return made.train(layer.training)


def exchange(
    optimizer: Optimizer | None, old: nn.Parameter, new: Iterable[nn.Parameter], also: Iterable[nn.Parameter] = ()
) -> None:
    """Put new parameters into the group that held the old one; nothing happens where no group did."""
    if optimizer is None:
        return
    gone = {id(old), *map(id, also)}
    for group in optimizer.param_groups:
        if len(new := list(new)) and any(p is old for p in group["params"]):
            group.pop("param_names", None)  # newer torch's: they name the old ones
        group["params"][:] = list(_exchanged(group["params"], old, new, gone))  # LBFGS keeps this very list
    for parameter in (old, *also):
        optimizer.state.pop(parameter, None)


def _exchanged(
    parameters: list[nn.Parameter], old: nn.Parameter, new: Iterable[nn.Parameter], gone: set[int]
) -> Iterator[nn.Parameter]:
    for parameter in parameters:
        if parameter is old:
            yield from new
        elif id(parameter) not in gone:
            yield parameter


def own_weight(layer: Plain) -> nn.Parameter:
    """The weight of a plain layer, known to be a parameter."""
    assert isinstance(layer.weight, nn.Parameter)
    return layer.weight


def own_bias(layer: Plain) -> nn.Parameter | None:
    """The bias, or None."""
    return layer._parameters["bias"]


def _urgency(
    rule: str, model: nn.Module, layers: Mapping[str, Plain], shapes: Mapping[str, Shape], data: Iterable[object] | None
) -> dict[str, Tensor]:
    if rule == "uniform":
        return {name: evenly(shape) for name, shape in shapes.items()}
    squares = energies(layers, model, data if rule == "activation" else None)
    return {name: by_energy(squares[name], shape) for name, shape in shapes.items()}


def _rule(ranks: str | None, data: Iterable[object] | None) -> str:
    rule = ranks or ("energy" if data is None else "activation")
    if rule not in RULES:
        raise ValueError(f"ranks is {ranks!r}; give a rank by layer name, or one of {', '.join(map(repr, RULES))}")
    if rule == "activation" and data is None:
        raise ValueError("ranks='activation' needs data: give data=images, or ranks='energy'")
    return rule


def _known(model: nn.Module, skip: Iterable[str]) -> set[str]:
    names = {skip} if isinstance(skip, str) else set(skip)
    modules = dict(model.named_modules())
    if unknown := sorted(names - modules.keys()):
        raise ValueError(
            f"skip names {unknown[0]!r}, which is no module of the model; its layers are {list(modules)[1:]}"
        )
    return names | {inner for inner in modules for name in names if inner.startswith(f"{name}.")}


def _up(share: float) -> str:
    return f"{-(-share * 10_000 // 1) / 10_000:.4f}"
