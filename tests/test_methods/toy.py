"""A method that the package does not know: one class. It masks nothing, has no decoder and no head."""

import torch
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmpl.methods import Method, Step
from mmpl.models import Teacher
from mmpl.utils.figures import Chart, Figure


@MODELS.register_module(force=True)
class Toy(Method):
    """The student predicts the teacher's class token of the same image."""

    LOSSES = dict(loss_toy='distance to the teacher')

    def __init__(self, backbone, momentum_toy=dict(start=0.9), data_preprocessor=None, init_cfg=None):  # noqa: B006
        super().__init__(MODELS.build(backbone), data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.predictor = nn.Linear(self.backbone.embed_dims, self.backbone.embed_dims)
        self.toy_teacher = Teacher(momentum_toy, 'momentum_toy', backbone=self.backbone)

    def step(self, views, samples=None):
        (images,) = views
        pred = self.predictor(self.backbone.encode(images)[0].mean(1))
        with torch.no_grad():
            target = F.layer_norm(self.toy_teacher.backbone.encode(images)[0].mean(1), pred.shape[-1:])
        figures = {'toy_spread': target.std(0).mean()} if self.track_health else {}
        return Step({'loss_toy': F.mse_loss(pred.float(), target)}, figures)

    @property
    def figures(self):
        spread = Figure(
            'spread', Chart('Spread of the toy', 'How far targets differ.'), (1e-3, None), 'Try another toy.'
        )
        return super().figures | dict(toy_spread=spread)

    @classmethod
    def tiny(cls):
        return dict(type='mmpretrain.Toy', backbone=super().tiny()['backbone'])
