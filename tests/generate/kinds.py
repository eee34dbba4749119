"""Small models whose caches are of other kinds than a llama's, made with random weights in mlx-lm's own classes."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

_COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

KINDS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        **_COMMON,
        "head_dim": 16,
        "sliding_window": 24,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
    },
    "llama": {**_COMMON, "rope_theta": 10000.0, "sliding_window": 24, "layer_types": _MIXED},
    "gpt_oss": {
        **_COMMON,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 24,
        "layer_types": _MIXED,
        "rope_theta": 10000,
    },
    "mamba2": {
        **_COMMON,
        "num_heads": 4,
        "head_dim": 32,
        "intermediate_size": 128,
        "state_size": 16,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": [0.001, 100.0],
        "time_step_rank": "auto",
        "num_hidden_layers": 2,
    },
    "lfm2": {
        **_COMMON,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
    },
    "qwen3_next": {
        **_COMMON,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 0,
        "num_experts_per_tok": 1,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "head_dim": 16,
        "full_attention_interval": 2,
    },
    "falcon_h1": {
        **_COMMON,
        "head_dim": 16,
        "mamba_d_ssm": 64,
        "mamba_d_head": 16,
        "mamba_n_heads": 4,
        "mamba_d_state": 16,
        "num_hidden_layers": 2,
        "rope_theta": 10000.0,
    },
    "deepseek_v32": {
        **_COMMON,
        "index_head_dim": 32,
        "index_n_heads": 2,
        "index_topk": 16,
        "moe_intermediate_size": 32,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "qk_nope_head_dim": 16,
        "first_k_dense_replace": 4,
        "num_hidden_layers": 2,
    },
    "llama4": {
        "text_config": {
            **_COMMON,
            "model_type": "llama4_text",
            "attention_bias": False,
            "attention_chunk_size": 24,
            "head_dim": 16,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 96,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "use_qk_norm": True,
        }
    },
    "recurrent_gemma": {
        **_COMMON,
        "attention_bias": False,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "rope_theta": 10000.0,
        "attention_window_size": 24,
        "block_types": ["recurrent", "attention"],
        "num_key_value_heads": 1,
        "num_hidden_layers": 2,
    },
}
"""Configurations by model type: windows of 24 tokens, so that short texts go beyond them."""


def make_kind(folder: Path, llama: Path, kind: str) -> Path:
    """Write a model of this type with the tokenizer of another folder, and return its folder."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llama / name, folder / name)
    config = {"model_type": kind, **KINDS[kind], "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    module: Any = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict(config))
    weights = {
        name: value * 3 if value.ndim > 1 and "conv" not in name else value
        for name, value in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder
