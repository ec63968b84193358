"""open_clip configs of two layers, one of every kind of tower that honeclip tells apart."""

from __future__ import annotations

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
SIGLIP_TEXT = {
    **TEXT,
    "context_length": 64,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}

CONFIGS = {
    "vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit-quick": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "custom": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407},
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
        "text_cfg": SIGLIP_TEXT,
    },
    "mobileclip": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None, "image_size": 64},
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
    "efficientnet": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": TEXT,
    },
    "mlp": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "mlp", "image_size": 160},
        "text_cfg": TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {
            "context_length": 76,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
            "attn_pooler_heads": 2,
        },
    },
}

CAPTIONS = [
    "a red square",
    "two blue circles on white",
    "x",
    "a much longer caption about nothing, with some more words in it",
]

REVISION = "0123456789abcdef0123456789abcdef01234567"
"""A commit of the hub, as its cache names snapshots."""
