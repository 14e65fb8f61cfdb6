"pytorch3d where it is installed: the same rotations, the same pictures"

import numpy as np
import pytest
import torch
from forehand4d.geometry.cameras import intrinsics_from_fov
from forehand4d.geometry.hand_models import hand_pair
from forehand4d.geometry.motion import rest_motion
from forehand4d.drawing.scenes import Mesh
from forehand4d.drawing.render import render
from forehand4d.geometry.rotations import aa_to_mat, mat_to_6d, mat_to_aa, random_rotation
from forehand4d.geometry.rotations import sixd_to_mat

pytest.importorskip('pytorch3d', reason='pytorch3d is not installed; it is optional')


def test_rotations():
    "Axis-angle, matrices and the six numbers mean the same there"
    theirs = pytest.importorskip('pytorch3d.transforms')
    g = torch.Generator().manual_seed(0)
    R = random_rotation(200, generator=g)
    aa = torch.randn(200, 3, generator=g)
    torch.testing.assert_close(aa_to_mat(aa), theirs.axis_angle_to_matrix(aa), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        aa_to_mat(mat_to_aa(R)),
        theirs.axis_angle_to_matrix(theirs.matrix_to_axis_angle(R)),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(mat_to_6d(R), theirs.matrix_to_rotation_6d(R))
    noisy = mat_to_6d(R) + 0.1 * torch.randn(200, 6, generator=g)
    torch.testing.assert_close(
        sixd_to_mat(noisy), theirs.rotation_6d_to_matrix(noisy), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize('size', ((160, 120), (90, 140)))
def test_pictures(size):
    "Two hands: the pictures differ by a few grey levels, but for single pixels on the outlines"
    try:
        from pytorch3d import _C  # noqa: F401
    except ImportError:
        pytest.skip('pytorch3d is installed without its compiled part')
    pair, m = hand_pair(), rest_motion(1)
    at = torch.tensor([[0.05, 0, 0.5], [-0.05, 0.02, 0.45]])
    vertices = pair.vertices(m.rot[0], at)
    meshes = [
        Mesh(v.numpy(), f.numpy(), c)
        for v, f, c in zip(vertices, pair.faces, ((0.3, 0.5, 0.9), (0.9, 0.5, 0.6)), strict=True)
    ]
    args = meshes, intrinsics_from_fov(50, *size), torch.eye(4), *size
    a, b = render(*args), render(*args, backend='pytorch3d')
    off = np.abs(a.image.astype(int) - b.image).max(-1)
    assert (off > 6).mean() < 0.01 and np.median(off) <= 1
    assert (a.ids == b.ids).mean() > 0.99
