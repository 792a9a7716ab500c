"""The decoder that predicts a token at every masked place."""

from math import isqrt

import torch
from mmpretrain.models.necks import MAEPretrainDecoder
from torch import Tensor

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models.arch import check_position_width
from mmpl.models.attention import use_attention
from mmpl.models.masking import Masks, gather_tokens
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Positive, checked


@MODELS.register_module()
class TokenDecoder(MAEPretrainDecoder):
    """MAE's decoder (MAE, section 3), asked for tokens at the masked places only.

    The parameters and their names are those of mmpretrain's ``MAEPretrainDecoder``. If all masked places are asked for,
    so is the arithmetic; if only some are (``predict_ratio`` < 1), the mask tokens of the others are left out of the
    sequence.

    Args:
        num_patches: N, patches of an image, a square number.
        embed_dims: D, width of the encoder.
        decoder_embed_dims: Width of the decoder, a multiple of ``num_heads``.
        depth: Number of transformer blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of a block's MLP over the decoder's width.
        out_dims: C, width of a predicted token. None means ``embed_dims``, right for token targets; pixel targets want
            ``patch_size ** 2 * 3``.
        with_cls_token: Whether the encoder's first token is a class token, which is decoded beside the others.
        norm_cfg: Normalisation layer.
        init_cfg: Initialisation.
    """

    @checked('neck')
    def __init__(
        self,
        num_patches: Count = 196,
        embed_dims: Count = 768,
        decoder_embed_dims: Count = 512,
        depth: Count = 8,
        num_heads: Count = 16,
        mlp_ratio: Positive = 4,
        out_dims: Count | None = None,
        with_cls_token: bool = True,
        norm_cfg: dict = dict(type='LN', eps=1e-6),  # noqa: B006
        init_cfg: dict | None = None,
    ) -> None:
        if isqrt(num_patches) ** 2 != num_patches:
            raise ValueError(f'`neck.num_patches` must be a square number, but got {num_patches}')
        check_position_width('neck.decoder_embed_dims', decoder_embed_dims)
        if decoder_embed_dims % num_heads:
            raise ValueError(
                f'`neck.decoder_embed_dims` must be a multiple of `num_heads` {num_heads}, but got {decoder_embed_dims}'
            )
        out_dims = embed_dims if out_dims is None else out_dims
        super().__init__(
            num_patches=num_patches,
            embed_dim=embed_dims,
            decoder_embed_dim=decoder_embed_dims,
            decoder_depth=depth,
            decoder_num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            norm_cfg=norm_cfg,
            predict_feature_dim=out_dims,
            init_cfg=init_cfg,
        )
        use_attention(self)
        self.num_extra_tokens = int(with_cls_token)
        self.embed_dims = embed_dims
        self.out_dims = out_dims

    def init_weights(self) -> None:
        """MAE's initialisation, unless ``init_cfg`` loads weights: these stay as they are."""
        if loads_weights(self.init_cfg):
            super(MAEPretrainDecoder, self).init_weights()  # mmpretrain's would draw anew what was loaded
        else:
            super().init_weights()

    def forward(self, latent: Tensor, masks: Masks) -> Tensor:
        """Predict the tokens at ``masks.ids_predict``, in their order: (B·R, E+V, D) -> (B·R, P, C), E class tokens."""
        extra = self.num_extra_tokens
        if masks.predicts_all and extra:
            return gather_tokens(super().forward(latent, masks.ids_restore), masks.ids_predict)
        visible = self.decoder_embed(latent)
        ids = torch.cat((masks.ids_keep, masks.ids_predict), dim=1)
        pos_embed = self.decoder_pos_embed[0, 1:][ids]
        mask_tokens = self.mask_token.expand(*masks.ids_predict.shape, -1)
        x = torch.cat((visible[:, extra:], mask_tokens), dim=1) + pos_embed
        x = torch.cat((visible[:, :extra] + self.decoder_pos_embed[:, :extra], x), dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x[:, -masks.ids_predict.shape[1] :]))
