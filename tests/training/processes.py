"""What test_distributed.py runs in one process and, as a script, in several: `processes.py FOLDER`."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer of every process would
from torch import nn

from art_lowrank.training import Folder, Learner, Objective, Pgd, SingleStep, WarmStart, attach, loop, train
from art_lowrank.training.distributed import leaving, team_here
from art_lowrank.training.loop import Course, shuffled
from art_lowrank.training.measure import measured
from art_lowrank.training.overfitting import Watch
from art_lowrank.training.precision import precision_of
from art_lowrank.training.team import ALONE, check_same, first, in_turn, together
from art_lowrank.training.warm_loop import remembering
from art_lowrank.weights import factorize, low_rank_layers

N, SIZE, EPOCHS = 47, 15, 4  # batches of 15, 15, 15 and 2 images; warm: 15, 15, 17
CPU = torch.device("cpu")
L2, LINF = Pgd(0.5, steps=2), Pgd(0.1, "inf", 2)
RAMP = {"rank": 2, "ramp": 2.5}
CASES = {  # method, its options, objective, attack, warm start
    "standard": ("condlr", {}, "standard", None, None),
    "madry": ("condlr", {"over": 8}, "madry", L2, None),
    "one step": ("none", {}, "madry", SingleStep(0.1), None),
    "one step, l2": ("nuclear", {"nuclear": 0.01, "every": 3}, "madry", SingleStep(0.5, 2), None),
    "trades": ("dlrt", {"cycle": 3}, "trades", Pgd(0.5, steps=2, rank=2), None),
    "warm": ("condlr", {}, "madry", L2, WarmStart(**RAMP)),
    "warm, files": ("dlrt", {"cycle": 3}, "madry", L2, WarmStart(**RAMP)),
    "warm, low rank": ("none", {}, "trades", L2, WarmStart(**RAMP, low_rank=True)),
    "warm, piggyback": ("condlr", {"beta": 0.1}, "madry", LINF, WarmStart(rank="full", steps=0, reset=2)),
}


def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(N, 1, 12, 12, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (N,), generator=generator)


def net(noisy=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        more = (nn.BatchNorm2d(5), nn.Dropout(0.3)) if noisy else ()
        layers = (*more, nn.ReLU(), nn.Flatten(), nn.Linear(180, 16), nn.ReLU(), nn.Linear(16, 4))
        return nn.Sequential(nn.Conv2d(1, 5, 3, stride=2, padding=1), *layers).double()


def learner_of(case, team, path=None, noisy=False, precision="float32"):
    method, options, name, attack, warm = case
    model, objective = net(noisy), Objective(name, attack)
    if precision != "float32":
        model.float()
    if method != "nuclear":
        with torch.random.fork_rng(devices=[]):
            factorize(model, keep=0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    if name == "standard":
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    handles, watch = attach(method, model, optimizer, options), None
    if warm is not None:
        watch = Watch(*(part[:9] for part in data()), 0.5)
        objective = remembering(objective, warm, N, (1, 12, 12), path, "", team=team)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    return Learner(model, model, optimizer, objective, handles, schedule, watch, precision_of(precision, CPU))


def trained(case, team=ALONE, folder=None, epochs=EPOCHS, files=None, **given):
    """History and weights; where there is a folder, it is gone on from."""
    x, y = data()
    learner = learner_of(case, team, files, **given)
    if given.get("precision", "float32") != "float32":
        x = x.float()
    batches = shuffled(x, y, SIZE, 7, CPU, even=case[-1] is not None)

    def validate():
        return measured(learner.model, learner.model, x[:21], y[:21], SingleStep(0.1), 8, team).shares()

    history = train(learner, batches, Course(epochs, 7, None, False), validate, folder, team=team)
    return {"history": history, "weights": weights(learner.model), "learner": learner}


def weights(model):
    """Parameters and buffers; factors, whose columns have no sign of their own, as their product."""
    layers = low_rank_layers(model)
    found = {name: value for name, value in model.state_dict().items() if name.rpartition(".")[0] not in layers}
    found |= {f"{name}.matrix": layer.exact for name, layer in layers.items()}
    return found | {f"{name}.bias": layer.bias.detach() for name, layer in layers.items()}


@contextmanager
def seen():
    """What happens meanwhile: sums over processes, and the parameters of each epoch before they are made to agree."""
    found, real, agree = {"sums": 0, "before": []}, torch.distributed.all_reduce, loop.agree

    def counting(*arguments, **named):
        found["sums"] += 1
        return real(*arguments, **named)

    def watching(team, model):
        found["before"].append([parameter.detach().clone() for parameter in model.parameters()])
        agree(team, model)

    torch.distributed.all_reduce, loop.agree = counting, watching
    try:
        yield found
    finally:
        torch.distributed.all_reduce, loop.agree = real, agree


class Conds:
    """The worst condition number after every step."""

    def __init__(self, learner):
        self.found, self.layers = [], low_rank_layers(learner.model).values()
        learner.optimizer.register_step_post_hook(self.look)

    def look(self, *_):
        self.found.append(max(layer.cond() for layer in self.layers))


def failure(act):
    """The kind and the words of an error."""
    try:
        act()
    except Exception as error:
        return type(error).__name__, str(error)
    return None


class Once:
    """An attack, or a loss, that goes wrong in one process at its third call."""

    eps, norm, clip = 0.5, 2, None

    def __init__(self, here, act):
        self.here, self.act, self.calls = here, act, 0

    def __call__(self, *given):
        self.calls += 1
        return self.act(*given) if self.here and self.calls == 3 else None


def broken(team):
    """Errors of one process that all have to hear of."""

    def fails(*_):
        raise ValueError("an attack that fails")

    wrong = Once(team.rank == 1, fails)

    def attack(logits, x, y, number):
        wrong()
        return x

    nan = Once(team.rank == 1, lambda: float("nan"))

    def loss(outputs, y):
        return nn.functional.cross_entropy(outputs, y) * (nan() or 1.0)

    def diverging():
        learner = learner_of(CASES["standard"], team)
        object.__setattr__(learner.objective, "loss", loss)
        x, y = data()
        train(learner, shuffled(x, y, SIZE, 7, CPU), Course(2, 7, None, False), team=team)

    sums = nn.CrossEntropyLoss(reduction="sum")
    summing = Learner(None, None, None, Objective(loss=sums))
    return {
        "attack": failure(lambda: trained(("condlr", {}, "madry", attack, None), team)),
        "loss": failure(diverging),
        "first": failure(lambda: first(team, lambda: fails() if team.rank == 0 else 1)),
        "last": failure(lambda: together(team, lambda: fails() if team.rank == team.size - 1 else 1)),
        "settings": failure(lambda: check_same(team, "trainings", {"seed": 5 * (team.rank == 1), "data": "a"})),
        "order": failure(lambda: unlike(team)),
        "sum": failure(lambda: train(summing, lambda _: [], Course(1), team=team)),
    }


def unlike(team):
    """Batches that each process deals out by itself."""
    learner, (x, y) = learner_of(CASES["standard"], team), data()
    train(learner, shuffled(x, y, SIZE, team.rank, CPU), Course(1, 7, None, False), team=team)


def two(team, folder):
    """All that is looked at with two processes."""
    found = {}
    for name, case in CASES.items():
        with seen() as meanwhile:
            files = folder / "two" if name == "warm, files" else None
            found[name] = trained(case, team, files=files) | {"meanwhile": meanwhile}
            found[name].pop("learner")
    for steps in (1, 6):
        with seen() as meanwhile:
            trained(("condlr", {}, "madry", Pgd(0.5, steps=steps), None), team, epochs=1)
        found[f"sums, {steps}"] = meanwhile["sums"]
    with seen() as meanwhile:
        noisy = trained(CASES["madry"], team, epochs=2, noisy=True)
    found["noisy"] = {"weights": noisy["weights"], "meanwhile": meanwhile}
    for name in ("bf16", "fp16"):
        with seen() as meanwhile:
            found[name] = trained(CASES["madry"], team, epochs=2, precision=name) | {"meanwhile": meanwhile}
            found[name].pop("learner")
    for name in ("one", "three"):
        found[f"from {name}"] = resumed(CASES["warm, files"], team, folder / f"by {name}")
    found["for one"] = resumed(CASES["warm, files"], team, folder / "by two", epochs=2)
    learner, (x, y) = learner_of(CASES["standard"], team), data()
    conds = Conds(learner)
    train(learner, shuffled(x, y, SIZE, 7, CPU), Course(1, 7, None, False), team=team)
    found["conds"] = conds.found
    found["errors"] = broken(team) | {
        "folder": failure(lambda: trained(CASES["standard"], team, Folder(folder / "file", {}))),
        "missing": failure(lambda: resumed(CASES["warm, files"], team, folder / "by three, incomplete")),
    }
    found["turns"] = in_turn(team, lambda: team.rank)
    return found


def incomplete(folder):
    """What three have begun, without the perturbations of one."""
    shutil.copytree(folder.with_name("by three"), folder)
    (folder / "store" / "epoch-000002.2-of-3.perturbations").unlink()


def resumed(case, team, folder, epochs=EPOCHS):
    """A training with checkpoint and files in a folder, begun or gone on."""
    own = Folder(folder if team.rank == 0 else folder / "elsewhere", {})  # as on a disk of another machine
    found = trained(case, team, own, epochs, files=folder / "store")
    found["held"] = found.pop("learner").objective.adversary.store.held
    return found


def main(folder):
    with leaving(team_here()) as team:
        try:
            if team.size == 3:
                found = resumed(CASES["warm, files"], team, folder / "by three", epochs=2)
            else:
                first(team, lambda: incomplete(folder / "by three, incomplete"))
                found = two(team, folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        torch.save(found, folder / f"found-{team.size}-{team.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
