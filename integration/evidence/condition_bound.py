"""Claim: the product of condition numbers bounds the relative change of the output. And: interval tightness."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from study import Notes, Question, Scale, cell, cells, percent, plural, table
from tightness import summary
from torch import nn
from trained_rows import flags, mean
from trainings import Trainings
from ways import DENSE, low_rank
from worlds import images_of, model_of

from art_lowrank.record import JSON

TITLE = "The condition-number bound, and interval tightness"
CLAIM = (
    "The product of the layers' condition numbers bounds the relative change of the output (arXiv 2306.01485); "
    "propagation of intervals is tight for some nets (arXiv 2306.10426)."
)
KIND = "evidence-tightness"
MLP = {"assets": ("mlp", 2.0, 0.1), "digits": ("digits mlp", 0.5, 0.05)}  # course, l2 length, box
BOX = {"mnist": 0.1, "cifar10": 2 / 255, "digits": 0.05}
SEQUENCES = {  # nets whose layers are a plain sequence
    "assets": (
        "mnist_cnn_linf_adv",
        "mnist_cnn_mmr_universal",
        "cifar10_cnn_mmr_universal",
        "cifar10_cnn_l2_certified",
    ),
    "digits": ("digits_standard", "digits_adversarial"),
}


def trainings(scale: Scale) -> Trainings:
    course, eps, box = MLP[scale.where]
    ways = [
        DENSE,
        low_rank("vanilla U s V", "none", 0.2),
        low_rank("CondLR tau 0.5", "peer", 0.2, max_cond=1.5),
        low_rank("CondLR tau 0.1", "peer", 0.2, max_cond=1.1),
        low_rank("ours, cond 1.5", "condlr", 0.2, max_cond=1.5),
        low_rank("ours, cond 1.1", "condlr", 0.2, max_cond=1.1),
    ]
    return Trainings(
        scale, course, {way.name: way for way in ways}, "2", eps, judge=f"2 {eps / 2:g} {eps:g}", bound=eps,
        tightness=box,
    )  # fmt: skip


def of_net(scale: Scale, name: str) -> Question:
    subject = scale.world.subjects[name]
    n = scale.images(name, 200)
    return Question(KIND, name, subject.data(n), "box", n, {"eps": BOX[subject.dataset]}, None)


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Tightness of a real net, its normalisation as one more layer."""
    split = images_of(question.data.split("-")[0], question.n)
    return summary(sequence(model_of(question.model)), split, float(str(question.settings["eps"]))), {}


def sequence(model: nn.Module) -> nn.Sequential:
    """The layers in order. Normalisation divides the widths of the box by each channel's deviation: a 1 x 1 layer."""
    layers: list[nn.Module] = []
    if hasattr(model, "std"):
        layers.append(scaled(model))
        model = next(model.children())
    if isinstance(model, nn.Sequential):
        return nn.Sequential(*layers, *model)
    convs = [child for child in model.children() if isinstance(child, nn.Conv2d)]
    linears = [child for child in model.children() if isinstance(child, nn.Linear)]
    for conv in convs:
        layers += [conv, nn.ReLU()]
    layers.append(nn.Flatten())
    for linear in linears:
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def scaled(model: nn.Module) -> nn.Conv2d:
    """(x - mean) / std as a convolution."""
    mean, std = (part.detach().flatten() for part in (model.mean, model.std))
    layer = nn.Conv2d(len(std), len(std), 1).requires_grad_(False)
    layer.weight.copy_((1 / std).diag().view(len(std), len(std), 1, 1))
    assert layer.bias is not None
    layer.bias.copy_(-mean / std)
    return layer


def questions(scale: Scale) -> Iterator[Question]:
    yield from trainings(scale).all()
    yield from (of_net(scale, name) for name in SEQUENCES[scale.where])


def sentence(notes: Notes, scale: Scale) -> str:
    """How far off the claimed bound is, and whether low rank makes intervals tighter."""
    of = trainings(scale)
    rows = {name: of.of(name) for name in of.ways}
    above = max(float(flags(notes, asked, "bound/attacked/above_claimed").mean()) for asked in rows.values())
    weights = max(float(flags(notes, asked, "bound/attacked/above_weights").mean()) for asked in rows.values())
    slack = [mean(notes, asked, "bound/claimed_bound") / mean(notes, asked, "bound/attacked/median")
             for asked in rows.values()]  # fmt: skip
    tight = {name: mean(notes, asked, "tightness/matrices/mean") for name, asked in rows.items()}
    dense, low = tight.pop("dense"), sorted(tight.values())
    base = rows["dense"]
    return (
        f"The product of all condition numbers was exceeded on {percent(above)} % of the images at most, and is "
        f"{min(slack):,.0f} to {max(slack):,.0f} times the median change; that of the weights' alone was exceeded on "
        f"{percent(weights)} % at most. Interval propagation keeps {dense:.3f} in the dense net and {low[0]:.3f} to "
        f"{low[-1]:.3f} in low-rank ones (n = {base[0].n}, {plural(len(base), 'seed')}, {of.course})."
    )


def verdict(notes: Notes, scale: Scale) -> list[str]:
    of = trainings(scale)
    asked = of.of("dense")
    above = cells(partial(one_bound, notes, of), of.ways)
    tight = cells(lambda name: f"{name} {mean(notes, of.of(name), 'tightness/matrices/mean'):.3f}", of.ways)
    return [
        f"The claimed product, {asked[0].model}, n = {notes.record(asked[0]).n}, {plural(len(asked), 'seed')}, "
        f"adversarial perturbations of l2 length {of.looks['bound']}: {'; '.join(above)}. What does hold, the product "
        f"of spectral norms times the length of x over that of f(x), was exceeded {exceeded(notes, of)} times.",
        f"Tightness of interval propagation (1 is exact), the same nets: {'; '.join(tight)}.",
    ]


def one_bound(notes: Notes, of: Trainings, name: str) -> str:
    asked = of.of(name)
    share = float(flags(notes, asked, "bound/attacked/above_claimed").mean())
    word = f"exceeded on {percent(share)} % of the images" if share else "never exceeded"
    return (
        f"{name} {word} (bound {mean(notes, asked, 'bound/claimed_bound'):.3g}, "
        f"largest change {max(float(notes.value(one, 'bound')['attacked']['largest']) for one in asked):.3g})"
    )


def exceeded(notes: Notes, of: Trainings) -> int:
    return sum(
        int(notes.value(one, "bound")[where]["above_sure"])
        for name in of.ways for one in of.of(name) for where in ("attacked", "noise") if notes.has(one)
    )  # fmt: skip


def tables(notes: Notes, scale: Scale) -> list[str]:
    of = trainings(scale)
    eps = MLP[scale.where][1]

    def row(name: str) -> list[str]:
        asked = of.of(name)
        paths = ("bound/claimed_bound", "bound/attacked/median", "bound/attacked/largest", "bound/noise/median",
                 "bound/sure_bound", "tightness/matrices/mean", "tightness/factors/mean")  # fmt: skip
        numbers = cells(partial(tightness_or, notes, asked), paths)
        return [name, cell(lambda: percent(mean(notes, asked, "clean"))),
                cell(lambda: percent(float(flags(notes, asked, f"judge/{eps:g}").mean()))), *numbers]  # fmt: skip

    head = [of.course, "clean", f"l2 {eps:g}", "claimed bound", "attacked, median", "attacked, largest",
            "noise, median", "what holds, median", "tightness, matrices", "tightness, factors"]  # fmt: skip
    rows = []
    for name in SEQUENCES[scale.where]:
        question = of_net(scale, name)
        told = cells(lambda q: f"{notes.value(q, 'mean'):.3f} (sd {notes.value(q, 'sd'):.3f})", [question])
        rows.append([name, scale.world.subjects[name].training, f"{question.settings['eps']:.3g}", *told])
    told = (
        "Relative change of the output over that of the input; means over seeds. What holds is the product of spectral "
        "norms times the length of x over that of f(x)."
    )
    return [told, "", *table(head, map(row, of.ways)), *table(["real nets", "training", "box", "tightness"], rows)]


def tightness_or(notes: Notes, asked: list[Question], path: str) -> str:
    """The mean over seeds; a dash for what a net does not have."""
    try:
        return f"{mean(notes, asked, path):.3g}"
    except KeyError:
        return "-"
