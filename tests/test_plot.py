"""The picture of a curve shows its numbers."""

from __future__ import annotations

import pytest

from art_lowrank import eps_curve, plot_curves, rank_curve

matplotlib = pytest.importorskip("matplotlib", reason="the extra art-lowrank[report] is not installed")
matplotlib.use("Agg")


@pytest.fixture
def curves(digits_net, test_digits):
    x, y = test_digits
    return {str(eps): rank_curve(digits_net, x, y, eps=eps, steps=4) for eps in (0.3, 0.6)}


def test_one_and_several(curves, tmp_path):
    ax = plot_curves(curves)
    drawn = [line for line in ax.lines if line.get_label() in curves]
    assert len(drawn) == 2
    for line in drawn:
        assert list(line.get_ydata()) == pytest.approx([100 * share for share in curves[line.get_label()].accuracy])
        assert list(line.get_xdata()) == [1, 2, 4, 8]
    ax.figure.savefig(tmp_path / "curves.png")
    assert plot_curves(curves["0.3"], ax=ax) is ax
    matplotlib.pyplot.close("all")


def test_kinds_are_not_mixed(curves, digits_net, test_digits):
    other = eps_curve(digits_net, *test_digits, eps=[0.3, 0.6], steps=2)
    with pytest.raises(ValueError, match="cannot share axes"):
        plot_curves({**curves, "radii": other})
    with pytest.raises(ValueError, match="cannot share axes"):
        plot_curves({})
