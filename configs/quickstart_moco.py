from seed_jax import config
def get_config(variant=""):
    c = config.default("moco")
    c.student.model="resnet18"
    c.student.options.small_stem=True
    c.student.options.width=0.25
    c.train.epochs=4.0
    return config.smoke(c) if variant=="smoke" else c
