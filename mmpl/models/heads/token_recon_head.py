"""The reconstruction heads: what is reconstructed at the masked places, and how far off the prediction is.

Shape legend: B images with R masks each, P places to predict, D token dims, C dims of a prediction.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from mmengine.model import BaseModule
from mmpretrain.models.heads import MAEPretrainHead
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.models.codebook import OnlineCodebook
from mmpl.models.masking import Masks, gather_tokens
from mmpl.models.standardise import check_members, standardise_channels
from mmpl.models.teacher_view import TeacherView
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Interval, Share, check_choice, checked
from mmpl.utils.figures import Chart, Figure

TargetNorm = Literal['layer', 'batch', 'position', 'position_layer', 'none']


@MODELS.register_module()
class TokenReconHead(BaseModule):
    """Reconstruction of the masked places; ``target`` chooses what is reconstructed, and with it the class.

    - ``'feature'``, :class:`FeatureTarget`: the reconstruction teacher's tokens (PL-MAE: token-level reconstruction).
    - ``'discrete'``, :class:`CodebookTarget`: their codes in an online codebook (PL-MAE speaks of discrete tokens; the
      codebook is our choice).
    - ``'pixel'``, :class:`PixelTarget`: the pixels of the patch, as MAE.

    A new target is a subclass with a ``target`` of its own: it says :attr:`out_dims`, makes :meth:`targets`, and
    measures their :meth:`distance` to predictions. If it has state that follows the steps, that has ``after_step`` and
    ``forget``.

    Args:
        target: One of the above.
        **fields: Of that class.
    """

    KINDS: ClassVar[dict[str, type]] = {}
    FIGURES: ClassVar[dict[str, Figure]] = {}
    target: ClassVar[str] = ''
    target_blocks: int = 0
    """How many of the teacher's last blocks the targets are made of; 0: there is no teacher."""
    out_dims: int
    """C, what the decoder has to give."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        TokenReconHead.KINDS[cls.target] = cls

    def __new__(cls, target: str = 'feature', **fields: Any) -> 'TokenReconHead':
        """Make one of the class that ``target`` names."""
        if cls is not TokenReconHead:
            return super().__new__(cls)
        check_choice('head.target', target, cls.KINDS)
        return super().__new__(cls.KINDS[target])

    @property
    def needs_teacher(self) -> bool:
        """Whether the targets come from a teacher."""
        return self.target_blocks > 0

    def forward(self, pred: Tensor) -> Tensor:
        """What is compared with the targets, (B·R, P, ...), from the decoder's predictions, (B·R, P, C)."""
        return pred

    def targets(self, images: Tensor, masks: Masks, view: TeacherView | None) -> Tensor:
        """What is to be predicted at ``masks.ids_predict``, (B·R, P, ...), from the images or from a teacher's view."""
        raise NotImplementedError

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each token, (B·R, P)."""
        raise NotImplementedError

    def figures(self, view: TeacherView | None) -> dict[str, Tensor]:
        """Values of :attr:`FIGURES`."""
        return {}

    def loss(self, pred: Tensor, target: Tensor, masks: Masks) -> Tensor:
        """Mean loss over the places to predict, ().

        Args:
            pred: From the decoder, (B·R, P, C).
            target: From :meth:`targets`.
            masks: The places.
        """
        pred = self(pred)
        with torch.autocast(pred.device.type, enabled=False):
            per_token = self.distance(pred.float(), target)
            # summed in the images' order, over all places, as MAE sums: this makes the two equal to the last bit
            placed = per_token.new_zeros(masks.ids_restore.shape).scatter(1, masks.ids_predict, per_token)
            return placed.sum() / per_token.numel()


class PixelTarget(TokenReconHead):
    """Pixels of the patches, compared by L2 as in MAE (section 3): the loss equals mmpretrain's MAE to the last bit.

    Args:
        target: ``'pixel'``.
        norm_pix: Standardise each patch by itself (MAE, section 4.1).
        embed_dims: Width of the encoder; not needed.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of an image.
        init_cfg: Initialisation.
    """

    target = 'pixel'

    @checked('head')
    def __init__(
        self,
        target: Literal['pixel'] = 'pixel',
        norm_pix: bool = True,
        embed_dims: Count = 768,
        patch_size: Count = 16,
        in_channels: Count = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_dims = patch_size**2 * in_channels
        if norm_pix and self.out_dims < 2:
            raise ValueError(
                '`head.norm_pix` must be False with a `patch_size` of 1 and one channel: a patch of one number, '
                'standardised by itself, is 0 whatever the image, but got True'
            )
        self.pixels = MAEPretrainHead(
            loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'),
            norm_pix=norm_pix,
            patch_size=patch_size,
            in_channels=in_channels,
        )

    @torch.no_grad()
    def targets(self, images: Tensor, masks: Masks, view: TeacherView | None = None) -> Tensor:
        """Pixels at the places to predict, (B·R, P, C)."""
        return gather_tokens(self.pixels.construct_target(images), masks.ids_predict)

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each patch."""
        return F.mse_loss(pred, target, reduction='none').mean(-1)


class FeatureTarget(TokenReconHead):
    """Tokens of the reconstruction teacher.

    Args:
        target: ``'feature'``.
        loss: ``'smooth_l1'``, ``'l2'`` or ``'cosine'``.
        target_norm: Normalisation of the teacher's tokens, without affine parameters: ``'layer'`` (each token over its
            channels), ``'batch'`` (each channel over all tokens of the joint batch), ``'position'`` (each channel at
            each place over the joint batch, which takes out what the place alone tells; our choice),
            ``'position_layer'`` (that, and then each token over its channels; our choice) or ``'none'``.
        target_blocks: The target is the mean of that many of the teacher's last blocks (data2vec, section 3.3).
        embed_dims: D.
        patch_size: Side of a patch; not needed.
        init_cfg: Initialisation.
    """

    target = 'feature'
    FIGURES = dict(
        norm=Figure(
            'norm',
            Chart(
                'Norm of the target features',
                'Mean length of the features to reconstruct, before normalisation; it must not run to 0.',
                'norm',
            ),
        )
    )

    @checked('head')
    def __init__(
        self,
        target: Literal['feature', 'discrete'] = 'feature',
        loss: Literal['smooth_l1', 'l2', 'cosine'] = 'smooth_l1',
        target_norm: TargetNorm = 'layer',
        target_blocks: Count = 1,
        embed_dims: Count = 768,
        patch_size: Count = 16,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.loss_type = loss
        self.target_norm = target_norm
        self.target_blocks = target_blocks
        self.embed_dims = self.out_dims = embed_dims

    @torch.no_grad()
    def targets(self, images: Tensor, masks: Masks, view: TeacherView | None) -> Tensor:
        """The teacher's normalised tokens at the places to predict, (B·R, P, D)."""
        assert view is not None  # `target_blocks` asks for a teacher
        return self.normalise(view.masked_features, masks)

    @torch.no_grad()
    def normalise(self, tokens: Tensor, masks: Masks) -> Tensor:
        """Normalise tokens at the places to predict, (B·R, P, D), as ``target_norm`` says; fp32."""
        if self.target_norm in ('position', 'position_layer'):
            images = len(tokens) // masks.num_masks
            check_members('head.target_norm', self.target_norm, images, 'images', "'layer'")
        elif self.target_norm == 'batch':
            check_members('head.target_norm', 'batch', tokens.shape[:2].numel(), 'tokens', "'layer'")
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            if self.target_norm == 'layer':
                tokens = F.layer_norm(tokens, tokens.shape[-1:])
            elif self.target_norm == 'batch':
                tokens = standardise_channels(tokens)
            elif self.target_norm in ('position', 'position_layer'):
                tokens = standardise_channels(tokens, masks.ids_predict, masks.num_patches)
            if self.target_norm == 'position_layer':
                tokens = F.layer_norm(tokens, tokens.shape[-1:])
            return tokens

    def figures(self, view: TeacherView | None) -> dict[str, Tensor]:
        """Mean norm of the teacher's tokens, as its blocks give them."""
        if view is None:
            return {}
        return dict(norm=torch.stack([block.float().norm(dim=-1).mean() for block in view.masked_blocks]).mean())

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """``loss`` of each token."""
        if self.loss_type == 'l2':
            return F.mse_loss(pred, target, reduction='none').mean(-1)
        if self.loss_type == 'cosine':
            return 1 - F.cosine_similarity(pred, target, dim=-1)
        return F.smooth_l1_loss(pred, target, reduction='none').mean(-1)


class CodebookTarget(FeatureTarget):
    """Index of the nearest code in an online codebook over the teacher's normalised tokens; cross-entropy.

    Args:
        target: ``'discrete'``.
        num_codes: Codes.
        codebook_momentum: Of the codes, in [0, 1].
        target_norm: As in :class:`FeatureTarget`.
        target_blocks: As in :class:`FeatureTarget`.
        embed_dims: D.
        patch_size: Side of a patch; not needed.
        init_cfg: Initialisation.
    """

    target = 'discrete'

    @checked('head')
    def __init__(
        self,
        target: Literal['discrete'] = 'discrete',
        num_codes: Annotated[int, Interval(2)] = 8192,
        codebook_momentum: Share = 0.99,
        target_norm: TargetNorm = 'layer',
        target_blocks: Count = 1,
        embed_dims: Count = 768,
        patch_size: Count = 16,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            target, target_norm=target_norm, target_blocks=target_blocks, embed_dims=embed_dims, init_cfg=init_cfg
        )
        self.codebook = OnlineCodebook(num_codes, embed_dims, codebook_momentum)
        self.classifier = nn.Linear(embed_dims, num_codes)

    def forward(self, pred: Tensor) -> Tensor:
        """Logits over the codes."""
        return self.classifier(pred)

    @torch.no_grad()
    def targets(self, images: Tensor, masks: Masks, view: TeacherView | None) -> Tensor:
        """Codes of the teacher's tokens, (B·R, P)."""
        tokens = super().targets(images, masks, view)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.codebook(tokens)

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of each token."""
        return F.cross_entropy(pred.transpose(1, 2), target, reduction='none')
