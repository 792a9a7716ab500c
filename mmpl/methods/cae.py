"""CAE-style context autoencoder (Chen et al., IJCV 2024, arXiv 2202.03026), without its tokenizer of foreign weights.

Shape legend: B images, R masks of each, N patches, V visible, M masked, P to predict, D token dims, K codes.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import LayerScale
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models import MaskedViT
from mmpl.models.attention import attention, use_attention
from mmpl.models.heads.mlp import mlp
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, NonNegative, Part, Positive, check_number, checked
from mmpl.utils.figures import Chart, Figure, of_part

from .base import Method, Step, check_equal, check_masks, with_defaults

TARGETS = Chart(
    'Alignment targets',
    'Length of the tokens that the regressor has to find (solid), and how far they are told apart (dashed: 0 means '
    'that all have one direction, which is collapse).',
)
ADVICE = 'Try a lower `loss_weights.align` or a lower learning rate.'


class TargetStats(NamedTuple):
    """Sums over tokens from which the health of the alignment's targets is read.

    Attributes:
        count: Number of tokens, ().
        length: Sum of their norms, ().
        direction: Sum of the tokens, each of length 1, (D,).
    """

    count: Tensor
    length: Tensor
    direction: Tensor

    def figures(self) -> dict[str, float]:
        """What :attr:`CAE.TARGET_FIGURES` declares."""
        count = self.count.item()
        spread = 1 - (self.direction.double() / count).square().sum().item()
        return dict(norm=self.length.item() / count, spread=spread)

    @classmethod
    def of(cls, tokens: Tensor) -> 'TargetStats':
        """Of tokens (..., D)."""
        flat = tokens.flatten(0, -2).float()
        length, direction = flat.norm(dim=-1).sum(), F.normalize(flat, dim=-1).sum(0)
        return cls(flat.new_full((), len(flat)), length, direction)


@MODELS.register_module()
class CAE(Method):
    """What is masked is first represented in the encoder's own space, and then decoded; the encoder only encodes.

    The encoder sees the visible patches. The regressor finds tokens for the masked places from the visible tokens; the
    decoder, which sees nothing but these, says which code each masked patch has (the paper's section on the
    architecture). The tokens found are drawn to what the encoder itself, as it is now and without gradients, makes of
    the masked patches alone. That is a teacher of momentum 0, for which no copy is kept: drop path, if the encoder has
    any, is at work in it too.

    What differs from the paper: its codes are those of DALL-E's tokenizer; here a ``tokenizer`` gives them that needs
    no weights (our choice). So its published results are not those of this form.

    Alignment alone invites collapse: an encoder whose tokens are all alike satisfies it. What prevents it is the loss
    of the codes, which therefore must weigh something; ``target_spread`` falls towards 0 where it does not suffice.

    Args:
        backbone: The student's encoder, a :class:`mmpl.models.MaskedViT`.
        regressor: A :class:`LatentRegressor`.
        neck: The decoder, a :class:`CodeDecoder`.
        tokenizer: What gives patches their codes: a :class:`mmpl.models.RandomTokenizer` if it names no type, or a
            :class:`mmpl.models.OnlineTokenizer`.
        masking: Where the masks come from, a :class:`mmpl.models.BlockMasking` if it names no type.
        loss_weights: Weights of ``code`` (above 0; the paper's 1) and ``align`` (the paper's 2).
        data_preprocessor: As in mmpretrain.
        init_cfg: Initialisation.
    """

    LOSSES = dict(loss_code='codes of masked patches', loss_align='alignment of masked tokens')
    TARGET_FIGURES: ClassVar[dict[str, Figure]] = dict(
        norm=Figure('norm', TARGETS),
        spread=Figure('spread', TARGETS, (0.02, None), ADVICE, dashed=True, column='spread of the targets'),
    )
    """Norm: mean length of the encoder's tokens of masked patches. Spread: 1 minus the squared length of their mean
    direction; 0 if all have the same."""

    @checked()
    def __init__(
        self,
        backbone: Part,
        regressor: Part = dict(),  # noqa: B006, C408
        neck: Part = dict(),  # noqa: B006, C408
        tokenizer: Part = dict(),  # noqa: B006, C408
        masking: Part = dict(),  # noqa: B006, C408
        loss_weights: Mapping[str, float] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        weights = dict(code=1.0, align=2.0) | dict(loss_weights or {})
        check_number('loss_weights.code', weights['code'], 0)
        if weights['code'] == 0:
            raise ValueError(
                '`loss_weights.code` must be above 0, as alignment alone is satisfied by tokens that are all alike, '
                'but got 0'
            )
        encoder = MODELS.build(backbone)
        if not isinstance(encoder, MaskedViT):
            raise ValueError(
                f'`backbone.type` must be a plain vision transformer such as mmpl.MaskedViT, whose positions the '
                f'regressor asks for, but got {type(encoder).__name__}'
            )
        sizes = dict(embed_dims=encoder.embed_dims, num_heads=encoder.arch_settings['num_heads'])
        of_patches = dict(patch_size=encoder.patch_size, in_channels=encoder.in_channels)
        codes = MODELS.build(with_defaults(tokenizer, type='mmpl.RandomTokenizer', **of_patches))
        decoder = MODELS.build(with_defaults(neck, type='mmpl.CodeDecoder', num_codes=codes.num_codes, **sizes))
        super().__init__(
            encoder,
            decoder,
            masking=with_defaults(masking, type='mmpl.BlockMasking'),
            loss_weights=weights,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.regressor = MODELS.build(with_defaults(regressor, type='mmpl.LatentRegressor', **sizes))
        self.tokenizer = codes
        self.masking.split(encoder.num_patches)
        check_masks(encoder, self.masking)
        check_equal(
            [
                ('regressor.embed_dims', self.regressor.embed_dims, encoder.embed_dims, 'the width of `backbone`'),
                ('neck.embed_dims', decoder.embed_dims, encoder.embed_dims, 'the width of `backbone`'),
                ('neck.num_codes', decoder.num_codes, codes.num_codes, 'the codes of `tokenizer`'),
                ('tokenizer.patch_size', codes.patch_size, encoder.patch_size, 'that of `backbone`'),
                ('tokenizer.in_channels', codes.in_channels, encoder.in_channels, 'the channels of `backbone`'),
            ]
        )

    def step(self, views: list[Tensor], samples: list | None = None) -> Step:
        """One step on images (B, C, H, W)."""
        (images,) = views
        masks = self.masking(len(images), self.backbone.patch_resolution, images.device)
        positions = self.backbone.pos_embed[0, 1:]  # (N, D)
        visible = self.backbone(images, masks.ids_keep)[:, 1:]  # (B·R, V, D), without the class token
        latent = self.regressor(visible, positions[masks.ids_keep], positions[masks.ids_predict])  # (B·R, P, D)
        logits = self.neck(latent, positions[masks.ids_predict])  # (B·R, P, K)
        with torch.no_grad():
            codes = self.tokenizer(images, masks.ids_predict)  # (B·R, P)
            target = self.backbone(images, masks.ids_masked)[:, 1 : 1 + latent.shape[1]]  # of its M tokens the first P
        with torch.autocast(images.device.type, enabled=False):
            losses = {
                'loss_code': F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten()),
                'loss_align': F.mse_loss(latent.float(), target.float()),
            }
        if not self.track_health:
            return Step(losses)
        return Step(losses, {'code': self.tokenizer.stats(codes, logits), 'target': TargetStats.of(target)})

    @property
    def figures(self) -> dict[str, Figure]:
        """Of the codes, and of what tokens are drawn to."""
        figures = super().figures | of_part('code', 'codes', self.tokenizer.FIGURES)
        return figures | of_part('target', 'target tokens', self.TARGET_FIGURES)

    @classmethod
    def tiny(cls) -> dict:
        """With few codes."""
        cfg = super().tiny()
        del cfg['head'], cfg['masking']
        return cfg | dict(regressor=dict(depth=2), neck=dict(depth=1), tokenizer=dict(num_codes=16))


# ---------------------------------------------------------------------- its parts


@MODELS.register_module()
class LatentRegressor(BaseModule):
    """Finds tokens for masked places: mask tokens ask, visible tokens and what is found so far answer.

    The paper's latent contextual regressor, with the blocks of :class:`CrossBlock` and a norm at the end.
    Where a token stands is told by positions that are added to what asks and to what is compared, never to the answers.

    Args:
        embed_dims: D, the encoder's, a multiple of ``num_heads``.
        num_heads: Attention heads; the encoder's.
        depth: Blocks; the paper's 4.
        mlp_ratio: Hidden width of a block's MLP over D.
        layer_scale_init_value: Start of the learnt scale of each channel that a block adds; the paper's 0.1. 0: none.
        init_cfg: Initialisation.
    """

    @checked('regressor')
    def __init__(
        self,
        embed_dims: Count,
        num_heads: Count,
        depth: Count = 4,
        mlp_ratio: Positive = 4,
        layer_scale_init_value: NonNegative = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_heads('regressor', embed_dims, num_heads)
        self.embed_dims = embed_dims
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.blocks = nn.ModuleList(
            CrossBlock(embed_dims, num_heads, int(mlp_ratio * embed_dims), layer_scale_init_value) for _ in range(depth)
        )
        self.ln = nn.LayerNorm(embed_dims, eps=1e-6)

    def init_weights(self) -> None:
        """MAE's: Xavier-uniform weights, zero biases, mask token of std 0.02."""
        super().init_weights()
        if loads_weights(self.init_cfg):
            return  # they stay as they are
        self.apply(init_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, visible: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        """Find tokens.

        Args:
            visible: Tokens of the visible patches, (B·R, V, D).
            places: Their positions, (B·R, V, D).
            asked: Positions of the places to find tokens for, (B·R, P, D).

        Returns:
            (B·R, P, D).
        """
        found = self.mask_token.expand_as(asked)
        all_places = torch.cat((places, asked), dim=1)
        for block in self.blocks:
            found = block(found, asked, torch.cat((visible, found), dim=1), all_places)
        return self.ln(found)


class CrossBlock(nn.Module):
    """A transformer block with cross-attention, normed before each part as the encoder's are (our choice).

    Keys have no bias: a softmax over them does not see it.

    Args:
        embed_dims: D.
        num_heads: Attention heads.
        hidden_dims: Hidden width of the MLP.
        layer_scale_init_value: As in :class:`LatentRegressor`.
    """

    def __init__(self, embed_dims: int, num_heads: int, hidden_dims: int, layer_scale_init_value: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln_query = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ln_context = nn.LayerNorm(embed_dims, eps=1e-6)
        self.query = nn.Linear(embed_dims, embed_dims)
        self.key = nn.Linear(embed_dims, embed_dims, bias=False)
        self.value = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.ln_mlp = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = mlp([embed_dims, hidden_dims, embed_dims])
        self.gamma1, self.gamma2 = (
            LayerScale(embed_dims, layer_scale_init_value) if layer_scale_init_value else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x: Tensor, places: Tensor, context: Tensor, context_places: Tensor) -> Tensor:
        """Ask a context: (L, P, D) with positions of the same shape, and (L, S, D) with theirs -> (L, P, D)."""
        query = self.query(self.ln_query(x + places))
        key = self.key(self.ln_context(context + context_places))
        value = self.value(self.ln_context(context))
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        answer = attention(*heads).transpose(1, 2).flatten(2)
        x = x + self.gamma1(self.proj(answer))
        return x + self.gamma2(self.mlp(self.ln_mlp(x)))


@MODELS.register_module()
class CodeDecoder(BaseModule):
    """Says which code each masked patch has, from the tokens found for them alone.

    Args:
        embed_dims: D, the encoder's, a multiple of ``num_heads``.
        num_heads: Attention heads; the encoder's.
        num_codes: K, those of the tokenizer.
        depth: Transformer blocks; the paper's 4.
        mlp_ratio: Hidden width of a block's MLP over D.
        layer_scale_init_value: As in :class:`LatentRegressor`.
        init_cfg: Initialisation.
    """

    @checked('neck')
    def __init__(
        self,
        embed_dims: Count,
        num_heads: Count,
        num_codes: Count,
        depth: Count = 4,
        mlp_ratio: Positive = 4,
        layer_scale_init_value: NonNegative = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_heads('neck', embed_dims, num_heads)
        self.embed_dims = embed_dims
        self.num_codes = num_codes
        self.blocks = nn.ModuleList(
            TransformerEncoderLayer(
                embed_dims,
                num_heads,
                int(mlp_ratio * embed_dims),
                layer_scale_init_value=layer_scale_init_value,
                norm_cfg=dict(type='LN', eps=1e-6),
            )
            for _ in range(depth)
        )
        use_attention(self)
        self.ln = nn.LayerNorm(embed_dims, eps=1e-6)
        self.classifier = nn.Linear(embed_dims, num_codes)

    def init_weights(self) -> None:
        """MAE's: Xavier-uniform weights, zero biases."""
        super().init_weights()
        if loads_weights(self.init_cfg):
            return  # they stay as they are
        self.apply(init_linear)

    def forward(self, latent: Tensor, places: Tensor) -> Tensor:
        """Decode tokens and their positions, both (B·R, P, D), to logits over the codes, (B·R, P, K)."""
        x = latent + places
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.ln(x))


def check_heads(part: str, embed_dims: int, num_heads: int) -> None:
    """Refuse a width that does not split into heads."""
    if embed_dims % num_heads:
        raise ValueError(f'`{part}.num_heads` must divide `embed_dims` {embed_dims}, but got {num_heads}')


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for a linear layer; anything else stays as it is."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
