# The encoder of the runs on crops of photographs: pl_mae_surfaces.py pre-trains it, the small siblings
# ../../downstream/*/*_surfaces*.py fine-tune it. The same as in ../../benchmarks/methods/_surfaces.py, so that encoders
# of the comparison fit.
surfaces_encoder = dict(
    arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
    img_size=32,
    patch_size=8,
)
# Mean and standard deviation of the training images (RGB and BGR alike: they are grey).
surfaces_pixels = dict(mean=[123.5] * 3, std=[42.6] * 3)
