"""mlx-mesh."""
