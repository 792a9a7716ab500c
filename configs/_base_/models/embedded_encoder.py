# The encoder of the runs on embedded data, stated once: pl_mae_demo.py pre-trains it, the small siblings in
# ../../downstream/ fine-tune it.
embedded_encoder = dict(
    arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
    img_size=32,
    patch_size=4,
)
# Mean and standard deviation of the embedded training images (RGB and BGR alike: they are grey).
embedded_pixels = dict(mean=[53.46] * 3, std=[57.20] * 3)
