# Ablation: codes of an online codebook instead of token features.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_discrete.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(
    head=dict(
        _delete_=True,
        type='mmpl.TokenReconHead',
        target='discrete',
        num_codes=8192,
        codebook_momentum=0.99,
        target_norm='layer',
        target_blocks=1,
    )
)
