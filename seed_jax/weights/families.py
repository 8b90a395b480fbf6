"""All namings. When several fit a file, the first is used."""

from seed_jax.weights import (
    crd,
    efficientnet,
    fd_vit,
    mobilenetv3,
    mobilenetv3_torchvision,
    resnet,
    swin,
    vit,
)

NAMINGS = (
    *resnet.NAMINGS,
    *mobilenetv3.NAMINGS,
    *mobilenetv3_torchvision.NAMINGS,
    *efficientnet.NAMINGS,
    *fd_vit.NAMINGS,  # before vit's, whose signature fits too
    *vit.NAMINGS,
    *swin.NAMINGS,
    *crd.NAMINGS,
)
