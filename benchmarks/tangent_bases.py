"""Tangent bases of the digit VAE's decoder: forward mode and one QR,
against one backward pass per pixel and an SVD.

    python benchmarks/tangent_bases.py [--quick] [--threads N]

Alternates the contenders in one process and prints medians of processor seconds, their ratio,
and how far the projectors QQᵀ differ. Fails below 20 times or beyond 1e-6.
"""

import argparse
import platform
import statistics
import sys
import time
import warnings

import torch

from manifold_xai.subjects.autoencoders import digit_vae
from manifold_xai.geometry.metric import tangent_basis


def by_pixel(decode, z):
    """As published (Bordt et al. 2024): for each image, a backward pass for each pixel;
    then singular vectors."""
    return torch.cat([by_pixel_batched(decode, row[None]) for row in z])


def by_pixel_batched(decode, z):
    """The kindest version of it: a backward pass for each pixel,
    for all images of the batch at once."""
    z = z.clone().requires_grad_()
    x = decode(z).flatten(1)
    J = torch.stack(
        [torch.autograd.grad(x[:, j].sum(), z, retain_graph=True)[0] for j in range(x.shape[1])], 1
    )
    return torch.linalg.svd(J, full_matrices=False).U


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="8 points and 2 rounds instead of 64 and 5"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    n, rounds = (8, 2) if args.quick else (64, 5)
    vae = digit_vae()
    z = torch.randn(n, 10, generator=torch.Generator().manual_seed(0))
    few = z[:2]  # a backward per pixel and image takes its time; it is given per image

    print(
        f"{platform.processor() or platform.machine()}, {args.threads} thread(s), "
        f"torch {torch.__version__}; D = 1024, d = 10, {n} points, float32, "
        f"median of {rounds} rounds, processor time"
    )
    contenders = {
        "one backward a pixel, image by image": (by_pixel, few),
        "one backward a pixel, whole batch": (by_pixel_batched, z),
        "tangent_basis": (tangent_basis, z),
    }
    for basis, points in contenders.values():
        basis(vae.decode, points[:1])  # warm up
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (basis, points) in contenders.items():
            start = time.process_time()
            basis(vae.decode, points)
            seconds[name].append((time.process_time() - start) / len(points))
    median = {name: statistics.median(s) for name, s in seconds.items()}
    for name, s in median.items():
        print(f"  {name:38} {s * 1e3:9.2f} ms a point   {s / median['tangent_basis']:7.1f} ×")

    vae, z = vae.double(), z[:8].double()
    Q, U = tangent_basis(vae.decode, z), by_pixel_batched(vae.decode, z)
    apart = (Q @ Q.mT - U @ U.mT).abs().max().item()
    single = tangent_basis(vae.float().decode, z.float()).double()
    print(
        f"  projectors differ by {apart:.1e} in float64 (largest entry, {len(z)} points); "
        f"float32 against float64: {(single @ single.mT - Q @ Q.mT).abs().max():.1e}"
    )
    published, kindest, ours = median.values()
    passed = published / ours >= 20 and apart <= 1e-6
    print(
        f"  {'holds' if passed else 'FAILS'}: {published / ours:.0f} times faster than the "
        f"published form (bar 20), {kindest / ours:.0f} times faster than its kindest one; "
        f"equal to {apart:.1e} (bar 1e-6)"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
