"""Every table of names there is."""

from seed_jax.weights import mobilenetv3, resnet

NAMINGS = (*resnet.NAMINGS, *mobilenetv3.NAMINGS)
