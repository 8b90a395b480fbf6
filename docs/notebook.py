"""From a folder of images, `images`, to a small network that PyTorch loads: `python docs/notebook.py`."""

import seed_jax

student = seed_jax.distil(
    teacher="pip:efficientnet-lite0",
    student="mobilenetv3_small_torchvision",
    data="images",
    workdir="runs/mine",
)
print(seed_jax.evaluate("runs/mine"))
features = seed_jax.embed("runs/mine", "images")
seed_jax.export("runs/mine", "student.safetensors")
