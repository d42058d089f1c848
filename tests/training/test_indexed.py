"""What is written down of torchvision's transforms, against what they did to the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch.utils.data import DataLoader, TensorDataset

from art_lowrank.training import Indexed, Moves
from art_lowrank.training.indexed import resized

pytest.importorskip("torchvision")
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

both = pytest.mark.parametrize("tv", [v1, v2], ids=["v1", "v2"])
SIZE = (20, 26)


def picture(size=SIZE, channels=3):
    """No two neighbours alike, in steps of 1/255 and never 0."""
    return torch.randint(1, 256, (channels, *size), generator=torch.Generator().manual_seed(0)) / 255


def ramp(size=SIZE):
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    return torch.stack([rows, columns, rows + columns]).float() / sum(size)


def one(image, transform, seed=0, **given):
    """An item's image and its move, after the checks that hold for all transforms."""
    torch.manual_seed(seed)
    shown, label, index, moves = Indexed([None, (image, 5)][1:], transform, **given)[0]
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    alone = transform(image)
    assert torch.equal(shown, alone)
    assert torch.equal(after, torch.get_rng_state())
    assert (label, index) == (5, 0)
    assert moves.scale.shape == moves.shift.shape == (2,)
    return alone, Moves(moves.scale[None], moves.shift[None])


def moved(image, moves, size):
    """The image under the move, and where the move says there is one."""
    return moves.images(image[None], size)[0], moves.images(torch.ones(1, 1, *image.shape[1:]), size)[0, 0] == 1


EXACT = {
    "crop": lambda t: t.RandomCrop((15, 17)),
    "border": lambda t: t.RandomCrop(SIZE, padding=4),
    "borders": lambda t: t.RandomCrop((18, 24), padding=(1, 5, 3, 2)),
    "fill": lambda t: t.RandomCrop(SIZE, padding=4, fill=0.25),
    "fill with 1": lambda t: t.RandomCrop(SIZE, padding=4, fill=1),
    "reflect": lambda t: t.RandomCrop(SIZE, padding=4, padding_mode="reflect"),
    "edge": lambda t: t.RandomCrop(SIZE, padding=4, padding_mode="edge"),
    "if needed": lambda t: t.RandomCrop((24, 20), pad_if_needed=True),
    "mirror": lambda t: t.RandomHorizontalFlip(),
    "upside down": lambda t: t.RandomVerticalFlip(),
    "centre": lambda t: t.CenterCrop((11, 14)),
    "larger centre": lambda t: t.CenterCrop((24, 31)),
    "pad": lambda t: t.Pad(3),
    "pads": lambda t: t.Pad((1, 2, 3, 4), fill=0.5),
    "nested": lambda t: t.Compose(
        [t.Pad(2), t.Compose([t.RandomHorizontalFlip(), t.Compose([t.RandomVerticalFlip()])]), t.RandomCrop(18)]
    ),
    "sequential": lambda t: torch.nn.Sequential(t.RandomHorizontalFlip(), t.RandomCrop(16)),
}


@both
@pytest.mark.parametrize("name", EXACT)
def test_flips_and_crops_are_followed_exactly(tv, name):
    image, transform = picture(), EXACT[name](tv)
    found = set()
    for seed in range(8):
        shown, moves = one(image, transform, seed)
        expected, there = moved(image, moves, shown.shape[1:])
        assert torch.equal(moves.scale.abs(), torch.ones(1, 2))
        assert torch.equal(moves.shift, moves.shift.round())
        assert there.float().mean() > 0.4
        assert torch.equal(shown * there, expected)
        if name in ("crop", "border", "borders", "mirror", "upside down", "nested", "sequential", "if needed"):
            assert torch.equal(shown, expected)
        found.add((*moves.scale.flatten().tolist(), *moves.shift.flatten().tolist()))
    assert (len(found) == 1) == (name in ("centre", "larger centre", "pad", "pads"))


@both
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_followed(tv, channels):
    image = picture(channels=channels)
    new = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    steps = [tv.RandomCrop(SIZE, padding=4), tv.RandomHorizontalFlip(), *(new if tv is v2 else [v1.ToTensor()])]
    for seed in range(4):
        shown, moves = one(v1.ToPILImage()(image), tv.Compose(steps), seed)
        torch.testing.assert_close(shown, moved(image, moves, SIZE)[0], rtol=0, atol=1e-6)


@both
def test_steps_between_that_draw_numbers_do_not_lead_astray(tv):
    image = picture()
    normal = tv.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    erased = tv.RandomErasing(p=1, scale=(0.02, 0.1), value=-9)
    jitter = tv.ColorJitter(brightness=1e-6, contrast=1e-6, saturation=1e-6)
    crop, mirror = tv.RandomCrop((18, 20), padding=2), tv.RandomHorizontalFlip()
    transform = tv.Compose([jitter, mirror, normal, erased, crop, tv.RandomGrayscale(0), tv.RandomVerticalFlip()])
    for seed in range(6):
        shown, moves = one(image, transform, seed)
        expected, there = moved(normal(image), moves, (18, 20))
        there = there & (shown != -9).all(0)
        assert there.float().mean() > 0.5
        torch.testing.assert_close(shown * there, expected * there, rtol=0, atol=1e-4)


@both
@pytest.mark.parametrize("size", [(40, 52), (27, 31), (64, 26)])
def test_enlarging_is_followed(tv, size):
    shown, moves = one(ramp(), tv.Resize(size))
    torch.testing.assert_close(moves.scale, resized(SIZE, size).scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(moves.shift, resized(SIZE, size).shift, rtol=0, atol=1e-3)
    expected, there = moved(ramp(), moves, size)
    assert there.float().mean() > 0.8
    torch.testing.assert_close(shown[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=0, atol=1e-3)


# Fails where the ratio is no whole number: with antialias the chart's rows are not evenly spaced, and the median of
# neighbours' differences is not the slope; 300 to 256 is 5.7 rows off. Upwards without interpolation it is even 0.
@pytest.mark.parametrize(
    ("stored", "size", "mode"),
    [
        *((a, b, "BILINEAR") for a, b in ((64, 32), (48, 32), (36, 32), (24, 16), (300, 256), (375, 256))),
        *((a, b, "BICUBIC") for a, b in ((48, 64), (48, 32))),
        *((a, b, "NEAREST") for a, b in ((64, 32), (32, 64), (32, 48))),
    ],
)
def test_rows_are_found_where_resizing_puts_them(stored, size, mode):
    transform = v2.Resize((size, size), interpolation=InterpolationMode[mode])
    _, moves = one(picture((stored, stored)), transform)
    expected, steps = resized((stored, stored), (size, size)), torch.arange(size)[:, None]
    places, right = (move.scale * steps + move.shift for move in (moves, expected))
    assert (places - right).abs().max() < (0.2 if mode != "NEAREST" else 0.8)


@both
def test_resized_crops_are_followed(tv):
    image, transform = ramp((64, 60)), tv.RandomResizedCrop(60, scale=(0.3, 0.8))
    for seed in range(6):
        shown, moves = one(image, transform, seed)
        expected, there = moved(image, moves, (60, 60))
        assert there.float().mean() > 0.9
        assert (moves.scale < 1.001).all()
        torch.testing.assert_close(shown[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=0, atol=1e-3)


@both
def test_resizing_cropping_and_mirroring_are_one_move(tv):
    image = ramp((32, 40))
    transform = tv.Compose([tv.Resize(48), tv.RandomCrop(40), tv.RandomHorizontalFlip(1.0)])
    shown, moves = one(image, transform)
    assert moves.scale[0, 1] < 0 < moves.scale[0, 0]
    torch.testing.assert_close(shown[:, 2:-2, 2:-2], moved(image, moves, (40, 40))[0][:, 2:-2, 2:-2], rtol=0, atol=1e-3)


# Fails with v1: its tensors take one number to fill with, pictures three, and the chart is a tensor.
@both
def test_pictures_filled_with_a_colour_are_followed(tv):
    image = picture()
    transform = v1.Compose([tv.RandomCrop(SIZE, padding=4, fill=(10, 20, 30)), v1.ToTensor()])
    shown, moves = one(v1.ToPILImage()(image), transform)
    expected, there = moved(image, moves, SIZE)
    torch.testing.assert_close(shown * there, expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_collates_indices_and_moves(workers):
    x = torch.stack([picture().roll(k, 2) for k in range(7)])
    data = Indexed(
        TensorDataset(x, torch.arange(7) % 3),
        v2.Compose([v2.RandomCrop(18, padding=4), v2.RandomHorizontalFlip()]),
    )
    torch.manual_seed(1)
    seen = []
    for images, labels, indices, moves in DataLoader(data, batch_size=4, shuffle=True, num_workers=workers):
        n = len(images)
        assert images.shape == (n, 3, 18, 18)
        assert torch.equal(labels, indices % 3)
        assert isinstance(moves, Moves)
        assert moves.scale.shape == moves.shift.shape == (n, 2)
        assert moves.scale.dtype == moves.shift.dtype == torch.float32
        assert torch.equal(moves.images(x[indices], (18, 18)), images)
        seen += indices.tolist()
    assert sorted(seen) == list(range(7))


def test_without_a_transform_items_are_three():
    x = torch.rand(5, 3, 4, 4)
    data = Indexed(TensorDataset(x, torch.arange(5)))
    assert len(data) == 5
    assert torch.equal(data[3][0], x[3])
    assert data[3][1:] == (3, 3)
    images, _, indices = next(iter(DataLoader(data, batch_size=5)))
    assert torch.equal(images, x)
    assert indices.tolist() == list(range(5))


def shifted(image):
    return image.roll(1, 2)


REFUSED = {
    "RandomRotation": lambda t: t.RandomRotation(5),
    "RandAugment": lambda t: t.Compose([t.RandomHorizontalFlip(), t.Compose([t.RandAugment()])]),
    "RandomAffine": lambda t: torch.nn.Sequential(t.RandomAffine(5)),
    "RandomPerspective": lambda t: t.RandomPerspective(),
    "Lambda": lambda t: t.Lambda(shifted),
    "RandomApply": lambda t: t.RandomApply([t.RandomHorizontalFlip()]),
    "shifted": lambda t: shifted,
}


@both
@pytest.mark.parametrize("name", REFUSED)
def test_other_transforms_are_refused_by_name_at_construction(tv, name):
    with pytest.raises(ValueError, match=f"^{name} is not known to move rows and columns apart") as caught:
        Indexed([], REFUSED[name](tv))
    assert "leave it out" in str(caught.value)
    assert "\n" not in str(caught.value)


@both
def test_a_frame_holds_images_of_every_size(tv):
    kept = ramp((10, 12))[None]
    for size in ((20, 24), (15, 30), (10, 12)):
        image = picture(size)
        for transform in (tv.RandomHorizontalFlip(1.0), tv.CenterCrop((10, 12)), tv.RandomCrop((14, 20), padding=4)):
            shown, moves = one(image, transform, frame=(10, 12))
            _, plain = one(image, transform)
            wide = nnf.interpolate(kept, size, mode="bilinear", align_corners=False)
            expected = plain.images(wide, shown.shape[1:])
            there = moves.images(torch.ones(1, 1, 10, 12), shown.shape[1:]) > 0.999
            assert there.float().mean() > 0.4
            found = moves.images(kept, shown.shape[1:])
            torch.testing.assert_close(found * there, expected * there, rtol=0, atol=1e-4)
        assert all(map(torch.equal, moves, plain)) == (size == (10, 12))


@both
@pytest.mark.parametrize("mode", ["reflect", "edge", "symmetric"])
def test_mirrored_borders_are_no_pixels_of_the_image(tv, mode):
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(3))
    for seed in range(6):
        torch.manual_seed(seed)
        shown, _, _, moves = Indexed([(image, 0)], tv.RandomCrop(8, padding=4, padding_mode=mode))[0]
        assert moves.scale.tolist() == [1.0, 1.0]
        found = Moves(moves.scale[None], moves.shift[None]).images(image[None], (8, 8))[0]
        assert torch.equal(found[found != 0], shown[found != 0])


@both
def test_an_image_of_one_pixel_shows_nothing_of_what_is_stored(tv):
    _, _, _, moves = Indexed([(torch.rand(1, 8, 8), 0)], tv.Compose([tv.CenterCrop(1), tv.Resize((8, 8))]))[0]
    assert bool(torch.isfinite(Moves(moves.scale[None], moves.shift[None]).inverse().shift).all())


@both
def test_arrays_are_refused_where_pixels_move(tv):
    with pytest.raises(ValueError, match="RandomHorizontalFlip met a NumPy array"):
        Indexed([(torch.zeros(8, 8, 3).numpy(), 0)], tv.RandomHorizontalFlip(1.0))[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": 5}, "the data set is a int"),
        ({"frame": 8}, "frame is 8; give"),
        ({"frame": (0, 8)}, r"frame is \(0, 8\)"),
    ],
)
def test_bad_data_sets_and_frames_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        Indexed(**{"dataset": [(torch.rand(1, 8, 8), 0)], **options})
