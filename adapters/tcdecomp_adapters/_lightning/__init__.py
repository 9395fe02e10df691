"""What the adapters of ``lightning`` and ``pytorch_lightning`` share. It imports neither."""
