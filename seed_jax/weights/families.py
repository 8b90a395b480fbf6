"""Every table of names there is; of those that fit a file, the first counts."""

from seed_jax.weights import efficientnet, mobilenetv3, mobilenetv3_torchvision, resnet, vit

NAMINGS = (
    *resnet.NAMINGS,
    *mobilenetv3.NAMINGS,
    *mobilenetv3_torchvision.NAMINGS,
    *efficientnet.NAMINGS,
    *vit.NAMINGS,
)
