"""The digits nets that come with the package: their files, their recipes, and what they are worth."""

from __future__ import annotations

import shlex

import pytest
import torch
from click.testing import CliRunner

from art_lowrank.cli import main
from art_lowrank.demo.digits import accuracy, digits
from art_lowrank.demo.nets import FOLDER, RECIPES, built_in, command, notes
from art_lowrank.training.checkpoint import BEST, read_weights
from art_lowrank.weights import low_rank_layers


@pytest.mark.parametrize("name", RECIPES)
def test_the_file_is_small_and_names_its_recipe(name):
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 50_000
    asked = {key: value for key, value in RECIPES[name].asked().items() if key != "lr"}  # an epoch's own rate is noted
    assert asked.items() <= notes(name).items()


def test_they_are_what_their_names_say():
    test = digits()[1]
    clean = {name: accuracy(built_in(name), test) for name in RECIPES}
    assert all(share > 0.9 for share in clean.values()), clean
    layers = low_rank_layers(built_in("low-rank"))
    assert len(layers) == 2
    assert all(layer.cond() <= 1.5 for layer in layers.values())
    assert not low_rank_layers(built_in("adversarial"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_command_trains_the_net_again(name, tmp_path):
    """The same weights on the machine they were made on; elsewhere about the same accuracy."""
    words = shlex.split(command(name))
    assert words[0] == "art-lowrank"
    result = CliRunner().invoke(main, [*words[1:], "--quiet", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    made, shipped = read_weights(tmp_path / BEST), built_in(name)
    assert made.keys() == shipped.state_dict().keys()
    test, net = digits()[1], built_in(name)
    net.load_state_dict(made)
    with torch.no_grad():
        assert abs(accuracy(net, test) - accuracy(shipped, test)) < 0.03
