"""All namings. When several fit a file, the first is used."""

from seed_jax.weights import crd, efficientnet, mobilenetv3, mobilenetv3_torchvision, resnet, swin, vit

NAMINGS = (
    *resnet.NAMINGS,
    *mobilenetv3.NAMINGS,
    *mobilenetv3_torchvision.NAMINGS,
    *efficientnet.NAMINGS,
    *vit.NAMINGS,
    *swin.NAMINGS,
    *crd.NAMINGS,
)
