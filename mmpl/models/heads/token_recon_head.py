"""The reconstruction head: what is reconstructed, and how far off the prediction is."""

import torch
from mmengine.model import BaseModule
from mmpretrain.models.heads import MAEPretrainHead
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.models.codebook import OnlineCodebook
from mmpl.models.masking import Masks, gather_tokens
from mmpl.models.standardise import standardise_channels
from mmpl.registry import MODELS
from mmpl.utils.fields import check_choice, check_number

TARGETS = ('feature', 'discrete', 'pixel')
LOSSES = ('smooth_l1', 'l2', 'cosine')
TARGET_NORMS = ('layer', 'batch', 'position', 'position_layer', 'none')


@MODELS.register_module()
class TokenReconHead(BaseModule):
    """Reconstruction of the masked places, in one of three target spaces.

    - ``'feature'``: the reconstruction teacher's tokens (PL-MAE: token-level
      reconstruction).
    - ``'discrete'``: the index of the nearest code in an online codebook over
      those tokens; cross-entropy (PL-MAE speaks of discrete tokens; the
      codebook is our choice).
    - ``'pixel'``: the pixels of the patch, as MAE (section 3); the loss equals
      mmpretrain's MAE to the last bit.

    Args:
        target (str): One of the three. Defaults to ``'feature'``.
        loss (str): Distance of feature targets, ``'smooth_l1'``, ``'l2'`` or
            ``'cosine'``; pixel targets are always compared by L2 and discrete
            ones by cross-entropy. Defaults to ``'smooth_l1'``.
        beta (float): Where smooth L1 turns from square to linear, above 0.
            Defaults to 1.0.
        target_norm (str): Normalisation of the teacher's tokens, without
            affine parameters: ``'layer'`` (each token over its channels),
            ``'batch'`` (each channel over all tokens of the joint batch),
            ``'position'`` (each channel at each place over the joint batch,
            which takes out what the place alone tells; our choice),
            ``'position_layer'`` (that, and then each token over its channels;
            our choice) or ``'none'``. Defaults to ``'layer'``.
        target_blocks (int): The target is the mean of the teacher's last
            ``target_blocks`` blocks (data2vec, section 3.3). Defaults to 1.
        embed_dims (int): D, dims of a token; needed by discrete targets.
            Defaults to 768.
        num_codes (int): Codes of discrete targets. Defaults to 8192.
        codebook_momentum (float): Momentum of the codes, in [0, 1]. Defaults
            to 0.99.
        norm_pix (bool): Pixel targets are standardised patch by patch (MAE,
            section 4.1). Defaults to True.
        patch_size (int): Side of a patch in pixels, for pixel targets.
            Defaults to 16.
        in_channels (int): Channels of an image, for pixel targets. Defaults
            to 3.
        init_cfg (dict, optional): Initialisation.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If a field is outside of what is allowed.
    """

    def __init__(
        self,
        target: str = 'feature',
        loss: str = 'smooth_l1',
        beta: float = 1.0,
        target_norm: str = 'layer',
        target_blocks: int = 1,
        embed_dims: int = 768,
        num_codes: int = 8192,
        codebook_momentum: float = 0.99,
        norm_pix: bool = True,
        patch_size: int = 16,
        in_channels: int = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice('target', target, TARGETS)
        check_choice('head.loss', loss, LOSSES)
        check_number('beta', beta, 0, open_minimum=True)
        check_choice('target_norm', target_norm, TARGET_NORMS)
        check_number('target_blocks', target_blocks, 1, integer=True)
        self.target = target
        self.loss_type = loss
        self.beta = beta
        self.target_norm = target_norm
        self.target_blocks = target_blocks
        self.embed_dims = embed_dims
        if target == 'pixel':
            check_number('head.patch_size', patch_size, 1, integer=True)
            check_number('head.in_channels', in_channels, 1, integer=True)
            self.out_dims = patch_size**2 * in_channels
            self.pixels = MAEPretrainHead(
                loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'),
                norm_pix=norm_pix,
                patch_size=patch_size,
                in_channels=in_channels,
            )
        else:
            check_number('head.embed_dims', embed_dims, 1, integer=True)
            self.out_dims = embed_dims
        if target == 'discrete':
            self.codebook = OnlineCodebook(num_codes, embed_dims, codebook_momentum)
            self.classifier = nn.Linear(embed_dims, num_codes)

    @property
    def needs_teacher(self) -> bool:
        """Whether the targets come from a teacher."""
        return self.target != 'pixel'

    def forward(self, pred: Tensor) -> Tensor:
        """Predicted tokens, or with discrete targets the logits over the codes."""
        return self.classifier(pred) if self.target == 'discrete' else pred

    @torch.no_grad()
    def pixel_targets(self, images: Tensor, masks: Masks) -> Tensor:
        """Pixels at the places to predict.

        Args:
            images (Tensor): Normalised images, (B, 3, H, W).
            masks (Masks): The places.

        Returns:
            Tensor: (B·R, P, p·p·3).
        """
        return gather_tokens(self.pixels.construct_target(images), masks.ids_predict)

    @torch.no_grad()
    def token_targets(self, tokens: Tensor, masks: Masks) -> Tensor:
        """Normalise, and for discrete targets encode, the teacher's tokens.

        Args:
            tokens (Tensor): Tokens at the places to predict, (B·R, P, D).
            masks (Masks): The places.

        Returns:
            Tensor: Targets, (B·R, P, D), or codes, (B·R, P).
        """
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
            return self.codebook(tokens) if self.target == 'discrete' else tokens

    def loss(self, pred: Tensor, target: Tensor, masks: Masks) -> Tensor:
        """Mean loss over the places to predict.

        Args:
            pred (Tensor): From the decoder, (B·R, P, C).
            target (Tensor): From :meth:`pixel_targets` or
                :meth:`token_targets`.
            masks (Masks): The places.

        Returns:
            Tensor: ().
        """
        pred = self(pred)
        with torch.autocast(pred.device.type, enabled=False):
            per_token = self._distance(pred.float(), target)
            # summed in the images' order, over all places, as MAE sums: this makes the two equal to the last bit
            placed = per_token.new_zeros(masks.ids_restore.shape).scatter(1, masks.ids_predict, per_token)
            return placed.sum() / per_token.numel()

    def _distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss of each token, (B·R, P)."""
        if self.target == 'discrete':
            return F.cross_entropy(pred.transpose(1, 2), target, reduction='none')
        if self.target == 'pixel' or self.loss_type == 'l2':
            return F.mse_loss(pred, target, reduction='none').mean(-1)
        if self.loss_type == 'cosine':
            return 1 - F.cosine_similarity(pred, target, dim=-1)
        return F.smooth_l1_loss(pred, target, reduction='none', beta=self.beta).mean(-1)
