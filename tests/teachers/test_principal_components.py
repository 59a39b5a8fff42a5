"""An AutoencoderDC in closed form, beside scikit-learn's principal components."""

from __future__ import annotations

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from workbench.data.scenes import Scenes
from workbench.teachers.principal_components import fit_principal_components, patch_autoencoder

IMAGES = Scenes("some", count=600, seed=3).images(32)


def patches(images: Tensor) -> Tensor:
    """(N, 3, 32, 32) to (16 N, 192)."""
    cut = images.unfold(2, 8, 8).unfold(3, 8, 8)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 192)


def test_latents_are_the_principal_components() -> None:
    vae = patch_autoencoder(32)
    fit_principal_components(vae, IMAGES)
    latents = vae.encode(2 * IMAGES - 1).latent
    assert latents.shape == (600, 32, 4, 4)
    pca = PCA(32).fit(patches(2 * IMAGES - 1).numpy())
    variances = latents.movedim(1, -1).reshape(-1, 32).var(0)
    torch.testing.assert_close(
        variances, torch.from_numpy(pca.explained_variance_).float(), rtol=1e-3, atol=1e-5
    )
    assert abs(latents.std().item() * vae.config.scaling_factor - 1) < 1e-3
    drawn = vae.decode(latents).sample
    ours = (drawn - (2 * IMAGES - 1)).square().mean().item()
    theirs = patches(2 * IMAGES - 1).numpy()
    left = ((pca.inverse_transform(pca.transform(theirs)) - theirs) ** 2).mean()
    assert abs(ours / left - 1) < 0.1


def test_all_components_give_the_image_back() -> None:
    vae = patch_autoencoder(192)
    fit_principal_components(vae, IMAGES)
    drawn = vae.decode(vae.encode(2 * IMAGES - 1).latent).sample
    assert (drawn - (2 * IMAGES - 1)).abs().max() < 0.01


def test_larger_images_are_cut_into_more_patches() -> None:
    vae = patch_autoencoder(64)
    fit_principal_components(vae, IMAGES)
    assert vae.encode(torch.zeros(1, 3, 64, 64)).latent.shape == (1, 64, 8, 8)
