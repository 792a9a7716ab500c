"""MixedAE: mixed autoencoder (Chen et al., CVPR 2023)."""

from functools import partial
from typing import Annotated, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmpl.checkpoints.strict_pretrained import loads_weights
from mmpl.models import Masks, RandomMasking
from mmpl.models.heads.mlp import keep_variance, mlp
from mmpl.registry import MODELS
from mmpl.utils.fields import Count, Interval, Natural, Part, Positive, check_number, checked
from mmpl.utils.figures import Chart, Figure, of_part

from .base import Method, Step, build_autoencoder, check_left_out, with_defaults

# Shape legend, beside that of base.py: G images of a group, N = G·V patches of a mixed image, X = B·R/G mixed images.


@MODELS.register_module()
class GroupMixing(RandomMasking):
    """Mixes images of a group: each place shows the patch of one of them, of all equally many.

    Images stand in groups of G as they come in the batch. The V = N/G places that show an image are what is visible of
    it, all others are its masked ones, so a mixing is also a mask of each image.

    A batch must be whole groups. One that is not is refused: to leave images out, or to mix fewer of them, would change
    without a word what is learned from the last images of an epoch.

    The draws are those of :class:`mmpl.models.RandomMasking`, one a group in place of one an image: they follow from
    seed, step and the group's place in the joint batch.

    Args:
        group_size: G, or 1/r with the mixing ratio r, a divisor of N. 4 is the paper's r = 0.25; 1 would mask nothing.
        num_masks: Mixed images of a group, R, at most G; in each of them every image has another mask. 1 is the paper's
            "compose" mixing, which encodes as many patches as MAE. G is its "full" mixing: the sources take turns at
            each place, so that every patch of every image is encoded once, and each image is decoded G times. We do not
            know which is the paper's default; "compose" fits what it says of the cost, 3 % above MAE's.
        seed: Seed of the mixing.
    """

    @checked('masking')
    def __init__(
        self,
        group_size: Annotated[int, Interval(2)] = 4,
        num_masks: Count = 1,
        seed: Natural = 0,
    ) -> None:
        check_number('masking.num_masks', num_masks, 1, group_size, integer=True)
        super().__init__(1 - 1 / group_size, num_masks, seed=seed)
        self.group_size = group_size

    def split(self, num_patches: int) -> tuple[int, int]:
        """How many of N patches an image shows, V, and how many are predicted, N - V."""
        num_visible, rest = divmod(num_patches, self.group_size)
        if rest or not num_visible:
            raise ValueError(
                f'`masking.group_size` must divide the {num_patches} patches of an image, of which each image of a '
                f'group shows an equal share, but got {self.group_size}'
            )
        return num_visible, num_patches - num_visible

    def forward(self, batch_size: int, num_patches: int | tuple[int, int], device: torch.device | str = 'cpu') -> Masks:
        """Draw the sources of one step, as R masks of each of the B images, and count the step.

        Mask ``r`` of an image belongs to mixed image ``r`` of its group.
        """
        if batch_size % self.group_size:
            raise ValueError(
                f'`masking.group_size` is {self.group_size}, but there are {batch_size} images in the batch of a '
                f'process: make `train_dataloader.batch_size` a multiple of {self.group_size}, and set `drop_last=True`'
            )
        drawn = super().forward(batch_size // self.group_size, num_patches, device)
        places = torch.cat((drawn.ids_keep, drawn.ids_masked), dim=1)[:: self.num_masks]  # one shuffle a group
        shares = places.unflatten(1, (self.group_size, -1))  # (B/G, G, V): a share of the places for each source
        turns = torch.arange(self.group_size, device=places.device)
        # in mixed image r image i takes share i - r: there its own comes first, and then all others
        order = (turns[:, None, None] - turns[None, : self.num_masks, None] + turns) % self.group_size  # (G, R, G)
        ids = shares[:, order].reshape(batch_size * self.num_masks, -1)
        keep, masked = ids.tensor_split([shares.shape[-1]], dim=1)
        return Masks(keep, masked, masked, ids.argsort(dim=1), self.num_masks)

    def mix(self, tokens: Tensor) -> Tensor:
        """Put the images of a group together, (B·R, V, D) -> (X, N, D), source by source."""
        x = tokens.unflatten(0, (-1, self.group_size, self.num_masks)).transpose(1, 2)
        return x.flatten(0, 1).flatten(1, 2)

    def unmix(self, tokens: Tensor) -> Tensor:
        """Take mixed images apart, (X, 1+N, D) -> (B·R, 1+V, D); each image keeps the class token of the mixed one."""
        parts = tokens[:, 1:].unflatten(1, (self.group_size, -1))  # (X, G, V, D)
        cls_token = tokens[:, None, :1].expand(-1, self.group_size, -1, -1)
        x = torch.cat((cls_token, parts), dim=2).unflatten(0, (-1, self.num_masks))
        return x.transpose(1, 2).flatten(0, 2)


def homologous_attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, *, num_kept: int) -> Tensor:
    """Attention of each query to the class token and to the patches that fit it best.

    The patches are chosen head by head; gradients reach those that are kept, as if the others were not there. The paper
    keeps the largest r·N logits of N patches; that the class token is kept beside them, and itself looks at as many, is
    our choice.

    Args:
        query: (X, heads, 1+N, D), the class token first, as in ``key`` and ``value``.
        key: The same shape.
        value: The same shape.
        dropout_p: Dropout of the attention.
        num_kept: Patches that a query attends to.
    """
    with torch.no_grad():
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        kept = logits[..., 1:].topk(num_kept, sorted=False).indices + 1
        mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, kept, True)
        mask[..., 0] = True
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p)


@MODELS.register_module()
class HomologousContrastHead(BaseModule):
    """Draws the tokens of a mixed image together that come from one image, away from the others.

    The supervised contrastive loss (Khosla et al., NeurIPS 2020, their L_out) with the source of a patch as its label,
    within one mixed image. It is computed on the encoder's patch tokens after the final norm.

    Args:
        in_dims: D.
        num_layers: Layers of the projector (our choice).
        hidden_dims: Hidden width of the projector (our choice).
        out_dims: Width of what is compared (our choice).
        temperature: 0.25 is the paper's, as far as we know.
        init_cfg: Initialisation.
    """

    FIGURES: ClassVar[dict[str, Figure]] = dict(
        recognised=Figure(
            'recognised',
            Chart(
                'Recognition of the source',
                'How often the token that is most like a token of a mixed image comes from the same image; chance is '
                'about one in `masking.group_size`.',
                'share',
            ),
        )
    )

    @checked('contrast_head')
    def __init__(
        self,
        in_dims: Count,
        num_layers: Count = 2,
        hidden_dims: Count = 2048,
        out_dims: Count = 256,
        temperature: Positive = 0.25,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_dims = in_dims
        self.temperature = temperature
        self.projector = mlp([in_dims] + [hidden_dims] * (num_layers - 1) + [out_dims])

    def init_weights(self) -> None:
        """Truncated normal weights whose outputs keep the inputs' variance, zero biases."""
        super().init_weights()
        if loads_weights(self.init_cfg):
            return  # they stay as they are
        keep_variance(self)

    def loss(self, tokens: Tensor, num_sources: int, with_figures: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the tokens, (), and the values of :attr:`FIGURES`.

        Args:
            tokens: Patches of mixed images, (X, N, D), source by source.
            num_sources: G; each has N/G tokens, at least two.
            with_figures: Whether to compute the figures.
        """
        embeddings = self.projector(tokens)
        with torch.autocast(embeddings.device.type, enabled=False):
            z = F.normalize(embeddings.float(), dim=-1)
            count = tokens.shape[1]
            source = torch.arange(count, device=z.device) // (count // num_sources)
            itself = torch.eye(count, dtype=torch.bool, device=z.device)
            positive = (source[:, None] == source) & ~itself
            logits = z @ z.transpose(1, 2) / self.temperature  # (X, N, N)
            mean_positive = (logits * positive).sum(-1) / (count // num_sources - 1)
            others = logits.masked_fill(itself, float('-inf'))
            loss = (others.logsumexp(-1) - mean_positive).mean()
            if not with_figures:
                return loss, {}
            return loss, dict(recognised=(source[others.detach().argmax(-1)] == source).float().mean())


@MODELS.register_module()
class MixedAE(Method):
    """A masked autoencoder whose encoder sees several images mixed into one, and has to tell them apart.

    Places that MAE would leave empty show patches of other images. An embedding of the source is added to each patch.
    In the encoder a patch attends to as many patches as its image shows, those that fit it best, and tokens of one
    image are drawn together: the paper's homologous recognition. The decoder rebuilds each image by itself, from its
    own visible patches, the mixed image's class token, and mask tokens elsewhere. It sees one source and gets no
    embedding of it (our choice).

    All this belongs to pre-training. The encoder is a plain :class:`mmpl.models.MaskedViT`: probes, features and
    exports have whole, unmixed images, attention to all patches, and no embedding of a source.

    Written from the paper's idea: its official code is not public. What we are not sure of is a field.

    Args:
        backbone: The student's encoder, a :class:`mmpl.models.MaskedViT`.
        neck: The decoder, a :class:`mmpl.models.TokenDecoder`.
        head: What is reconstructed: a :class:`mmpl.models.TokenReconHead` with ``target='pixel'``.
        masking: Which image a place shows, a :class:`GroupMixing`.
        homologous_from: First block with homologous attention, counted from 0; as many as there are blocks: none has
            it. The paper has it in some blocks, we do not know in which: all but the first, which sees no more of a
            patch than its own pixels, is our choice.
        contrast_head: Fields of :class:`HomologousContrastHead`.
        loss_weights: Weights of ``recon`` (above 0; 1 if not given) and ``contrast`` (0.1 if not given, the paper's as
            far as we know; with 0 the head is not built).
        data_preprocessor: As in mmpretrain.
        init_cfg: Initialisation.
    """

    LOSSES = dict(loss_recon='reconstruction', loss_contrast='homologous contrast')

    @checked()
    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: Part,
        masking: dict | None = None,
        homologous_from: Natural = 1,
        contrast_head: dict | None = None,
        loss_weights: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        encoder, decoder, recon_head = build_autoencoder(backbone, neck, with_defaults(head, target='pixel'))
        mixing = with_defaults(masking or {}, type='mmpl.GroupMixing')
        weights = with_defaults(loss_weights or {}, contrast=0.1)
        super().__init__(encoder, decoder, recon_head, mixing, weights, data_preprocessor, init_cfg)
        self.check_sizes()
        if not isinstance(self.masking, GroupMixing):
            raise ValueError(f'`masking.type` must be mmpl.GroupMixing, but got {type(self.masking).__name__}')
        if recon_head.target != 'pixel':
            raise ValueError(
                f"`head.target` must be 'pixel' in MixedAE, which has no teacher, but got {recon_head.target!r}"
            )
        check_number('homologous_from', homologous_from, 0, encoder.num_layers, integer=True)
        num_visible, _ = self.masking.split(encoder.num_patches)
        attention = partial(homologous_attention, num_kept=num_visible)
        self.group_size = self.masking.group_size
        self.attentions = [attention if block >= homologous_from else None for block in range(encoder.num_layers)]
        self.segment_embed = nn.Parameter(torch.zeros(self.group_size, encoder.embed_dims))
        self.contrast_head: HomologousContrastHead | None = None
        head_cfg = with_defaults(contrast_head or {}, type='mmpl.HomologousContrastHead', in_dims=encoder.embed_dims)
        if self.loss_weights['contrast'] > 0:
            if num_visible < 2:
                raise ValueError(
                    f'`masking.group_size` must leave an image at least two of its {encoder.num_patches} patches, or '
                    f'`loss_weights.contrast` be 0: a single one has none to be drawn to, but got '
                    f'{self.group_size}'
                )
            self.contrast_head = MODELS.build(head_cfg)
            in_dims, dims = self.contrast_head.in_dims, encoder.embed_dims
            self.check_sizes([('contrast_head.in_dims', in_dims, dims, 'the width of `backbone`')])
        else:
            check_left_out(head_cfg)

    def init_weights(self) -> None:
        """Initialise the parts; embeddings of the sources as MAE's mask token (std 0.02; our choice)."""
        nn.init.normal_(self.segment_embed, std=0.02)  # first: a checkpoint of `init_cfg` is loaded over it
        super().init_weights()

    def step(self, views: list[Tensor], samples: list | None = None) -> Step:
        """One step on images (B, C, H, W), B a multiple of the group."""
        (images,) = views
        masks = self.masking(len(images), self.backbone.num_patches, images.device)
        mixed = self.masking.mix(self.backbone.embed(images, masks.ids_keep))  # (X, N, D)
        segments = self.segment_embed.repeat_interleave(masks.ids_keep.shape[1], dim=0)  # (N, D)
        tokens, _ = self.backbone.transform(mixed + segments, attentions=self.attentions)  # (X, 1+N, D)
        pred = self.neck(self.masking.unmix(tokens), masks)  # (B·R, P, C)
        losses = {'loss_recon': self.head.loss(pred, self.head.targets(images, masks), masks)}
        figures = {}
        if self.contrast_head is not None:
            losses['loss_contrast'], seen = self.contrast_head.loss(tokens[:, 1:], self.group_size, self.track_health)
            figures = {f'contrast_{name}': value for name, value in seen.items()}
        return Step(losses, figures)

    @property
    def figures(self) -> dict[str, Figure]:
        """Of the contrast."""
        if self.contrast_head is None:
            return super().figures
        return super().figures | of_part('contrast', 'tokens of one image', self.contrast_head.FIGURES)

    @classmethod
    def tiny(cls) -> dict:
        """With groups of four, two mixed images of each, and a small contrastive head."""
        cfg = super().tiny()
        cfg['head'] = dict(cfg['head'], target='pixel')
        return cfg | dict(masking=dict(group_size=4, num_masks=2), contrast_head=dict(hidden_dims=32, out_dims=8))
