"""Text embeddings by encoders of the BERT family."""

from mlx_mesh_worker.engines.embed.engine import EmbedEngine

__all__ = ["EmbedEngine"]
