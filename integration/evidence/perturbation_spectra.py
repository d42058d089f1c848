"""Claim: PGD's perturbations are nearly low rank, and what they change of an image is its small singular values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from strength_cells import PAPER, POWER, Job, ours, peer, published_pgd
from study import Missing, Notes, Question, Scale, cells, table
from torch import Tensor
from worlds import Subject, images_of, model_of, subject_of

from art_lowrank import lowrank_pgd
from art_lowrank.attack.oracle import evaluating
from art_lowrank.record import JSON
from art_lowrank.spectra import noise_like, perturbed
from art_lowrank.statistics import Interval, mean_interval, paired_difference

TITLE = "The spectra of perturbations"
CLAIM = (
    "PGD's perturbations are nearly low rank, and their relative change of singular values is concentrated in the "
    "small ones (arXiv 2410.12607)."
)
KIND = "evidence-spectra"
PGD, FGSM, SIGN, SIGN_PGD = "PGD N=10", "FGSM l2", "FGSM l_inf", "PGD l_inf N=10"
APGD, NOISE, SIGN_NOISE = "APGD-CE N=50", "noise as long as PGD's", "random signs as large as FGSM's"
PIXEL = {"cifar10": 8 / 255, "mnist": 0.3, "imagenet": 4 / 255, "digits": 0.1}  # of l_inf attacks
REAL = ("cifar10_resnet20_standard", "cifar10_resnet4b_linf_adv", "cifar10_vit2_linf_adv", "cifar10_cnn_l2_certified",
        "mnist_lenet5_standard", "mnist_lenet5_linf_adv", "imagenet_squeezenet10")  # fmt: skip
NETS = {"assets": REAL, "digits": ("digits_standard", "digits_adversarial")}
RANKS = ("stable", "ratio", "entropy")
BATCH = 100

Attack = Callable[[Job], Tensor]


def full_rank(steps: int, **more: Any) -> Attack:
    """Plain PGD on cross-entropy."""

    def run(job: Job) -> Tensor:
        return lowrank_pgd(job.model, job.x, job.y, eps=job.eps, rank="full", steps=steps, loss="ce", **more).x

    return run


def random_signs(job: Job) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, job.x.shape, generator=draws) * 2 - 1
    return (job.x + job.eps * signs).clamp(0, 1)


def attacks_of(subject: Subject) -> dict[str, Attack]:
    """By the names of tables; low ranks are a tenth of full rank."""
    low = {"rank": subject.ranks[0], "steps": 10}
    pixel = PIXEL[subject.dataset]

    def in_pixels(of: Attack) -> Attack:
        return lambda job: of(job._replace(eps=pixel))

    return {
        PGD: lambda job: published_pgd(job, {"steps": 10}),
        APGD: lambda job: peer("autoattack_apgd", loss="ce")(job, {"steps": 50}),
        FGSM: full_rank(1, step_size=subject.eps),
        f"{PAPER} r={low['rank']}": lambda job: ours("paper")(job, low),
        f"{POWER} r={low['rank']}": lambda job: ours("power")(job, low),
        NOISE: lambda job: noise_like(job.x, published_pgd(job, {"steps": 10})),
        SIGN_PGD: in_pixels(full_rank(10, norm="inf")),
        SIGN: in_pixels(full_rank(1, norm="inf", step_size=pixel)),
        SIGN_NOISE: in_pixels(random_signs),
    }


def ask(scale: Scale, name: str, attack: str) -> Question:
    subject = scale.world.subjects[name]
    n = scale.images(name, 200)
    return Question(KIND, name, subject.data(n), attack, n, {"eps": subject.eps, "pixel": PIXEL[subject.dataset]})


def questions(scale: Scale) -> Iterator[Question]:
    for name in NETS[scale.where]:
        for attack in attacks_of(scale.world.subjects[name]):
            yield ask(scale, name, attack)


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Means over images, with intervals; images that are left as they were do not count."""
    subject = subject_of(question.model)
    model, (x, y) = model_of(question.model), images_of(subject.dataset, question.n)
    run = attacks_of(subject)[question.attack]
    with evaluating(model):
        moved = torch.cat([run(Job(model, images.contiguous(), labels, subject.eps, 0)).detach()
                           for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True)])  # fmt: skip
    changed = (moved != x).flatten(1).any(1)
    found = perturbed(x[changed], moved[changed])
    full = found.energy.shape[1]
    tenth = found.energy[:, max(1, round(0.1 * full)) - 1]
    values: dict[str, JSON] = {
        "moved": int(changed.sum()),
        "full": full,
        **{name: [means(getattr(found, name)[:, k]) for k in range(full)] for name in ("change", "shift", "energy")},
        **{name: means(getattr(found, name)) for name in RANKS},
        "tenth_each": [round(float(value), 5) for value in tenth],
        "entropy_each": [round(float(value), 4) for value in found.entropy],
    }
    return values, {}


def means(values: Tensor) -> JSON:
    """Mean, interval and how many; None where no image has the value."""
    known = values[torch.isfinite(values)].tolist()
    return [*(float(f"{number:.4g}") for number in mean_interval(known)), len(known)] if len(known) > 1 else None


def sentence(notes: Notes, scale: Scale) -> str:
    nets = NETS[scale.where]
    n = " + ".join(str(notes.value(ask(scale, name, PGD), "moved")) for name in nets)
    return f"{low_rank(notes, scale, nets)} {in_the_tail(notes, scale, nets)} n = {n} images."


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """PGD against noise of the same length, net by net."""
    return [of_net(notes, scale, name) for name in NETS[scale.where]]


def top(notes: Notes, question: Question) -> Interval:
    """Share of the energy in a tenth of the singular values."""
    full = int(notes.value(question, "full"))
    return Interval(*notes.value(question, "energy")[max(1, round(0.1 * full)) - 1][:3])


def of_net(notes: Notes, scale: Scale, name: str) -> str:
    pgd, noise = ask(scale, name, PGD), ask(scale, name, NOISE)
    ranks = " and ".join(f"{notes.value(one, 'entropy')[0]:.1f}" for one in (pgd, noise))
    return (
        f"{scale.world.subjects[name].short}, n = {notes.value(pgd, 'moved')}: a tenth of the singular values holds "
        f"{top(notes, pgd).percent(0)} of PGD's energy and {top(notes, noise).percent(0)} of the noise's; entropy rank "
        f"{ranks} of {notes.value(pgd, 'full')}; relative to themselves the small singular values change "
        f"{steepness(notes, pgd):.0f} times as much as the largest, under noise {steepness(notes, noise):.0f} times."
    )


def steepness(notes: Notes, question: Question) -> float:
    """The mean relative change of the last tenth over that of the first value."""
    changes = [one[0] for one in notes.value(question, "change") if one is not None]
    last = changes[-max(1, round(0.1 * len(changes))) :]
    return float(sum(last) / len(last) / changes[0])


def held(count: int, of: int) -> str:
    return (
        f"**{'holds' if count == of else 'does not hold' if count == 0 else 'holds in part'}** ({count} of {of} nets)"
    )


def low_rank(notes: Notes, scale: Scale, nets: tuple[str, ...]) -> str:
    """Two readings of "nearly low rank": lower than noise, and most of it in a tenth."""
    pairs = [(ask(scale, name, PGD), ask(scale, name, NOISE)) for name in nets]
    lower = [paired_difference(*(notes.value(one, "tenth_each") for one in pair)).low > 0 for pair in pairs]
    most = [top(notes, pgd).low > 0.9 for pgd, _ in pairs]
    half = [top(notes, pgd).low > 0.5 for pgd, _ in pairs]
    return (
        f"That PGD's perturbations are lower in rank than noise {held(sum(lower), len(nets))}; that a tenth of the "
        f"singular values holds more than half of their energy {held(sum(half), len(nets))}, more than nine tenths "
        f"{held(sum(most), len(nets))}."
    )


def in_the_tail(notes: Notes, scale: Scale, nets: tuple[str, ...]) -> str:
    """What the paper's figure shows, and whether the control shows it too."""
    pgd, noise = ([steepness(notes, ask(scale, name, attack)) for name in nets] for attack in (PGD, NOISE))
    small = sum(value > 2 for value in pgd)
    as_much = sum(b >= a for a, b in zip(pgd, noise, strict=True))
    return (
        f"That the relative change is concentrated in the small singular values {held(small, len(nets))}; noise of the "
        f"same length shows it at least as much in {as_much} of {len(nets)} nets, so there the figure says "
        "something about images rather than about attacks."
    )


def tables(notes: Notes, scale: Scale) -> list[str]:
    found = []
    for name in NETS[scale.where]:
        subject = scale.world.subjects[name]

        def row(attack: str, name: str = name) -> list[str]:
            one = ask(scale, name, attack)
            return [
                attack,
                *cells(lambda share: energy(notes, one, share), (0.1, 0.25, 0.5)),
                *cells(lambda measure: f"{notes.value(one, measure)[0]:.2f}", RANKS),
                *cells(lambda place: change(notes, one, place), (0.0, 0.5, 1.0)),
            ]

        n = scale.images(name, 200)
        head = [f"{subject.short}, n = {n}", "energy in 10 %", "25 %", "50 %", "stable rank", "(nuc/F)^2",
                "entropy rank", "change of the first", "of the middle", "of the last"]  # fmt: skip
        found += table(head, map(row, attacks_of(subject)))
    return found


def energy(notes: Notes, question: Question, share: float) -> str:
    full = int(notes.value(question, "full"))
    return f"{100 * notes.value(question, 'energy')[max(1, round(share * full)) - 1][0]:.1f}"


def change(notes: Notes, question: Question, place: float) -> str:
    """Of the last that the images have."""
    known = [one for one in notes.value(question, "change") if one is not None]
    return f"{known[round(place * (len(known) - 1))][0]:.3g}"


def draw(notes: Notes, scale: Scale, path: Path) -> None:
    """The paper's figure with its control: mean relative change by singular value, a panel a net."""
    from matplotlib.figure import Figure

    from art_lowrank.evaluate.report.png import COLOURS

    nets = NETS[scale.where]
    figure = Figure(figsize=(3.1 * ((len(nets) + 1) // 2), 6), layout="constrained")
    panels = figure.subplots(2, (len(nets) + 1) // 2, squeeze=False).flatten()
    for panel in panels[len(nets) :]:
        panel.axis("off")
    for panel, name in zip(panels, nets, strict=False):
        subject = scale.world.subjects[name]
        for place, attack in enumerate((PGD, APGD, FGSM, f"{PAPER} r={subject.ranks[0]}", NOISE)):
            try:
                known = [one for one in notes.value(ask(scale, name, attack), "change") if one is not None]
            except Missing:
                continue
            k = range(1, len(known) + 1)
            style, label = "--" if attack == NOISE else "-", attack.split(" r=")[0]
            panel.plot(k, [one[0] for one in known], style, color=COLOURS[place], label=label, linewidth=1.2)
        panel.set(yscale="log", title=subject.short, xlabel="singular value no.", ylabel="its relative change")
        panel.title.set_fontsize(9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)
