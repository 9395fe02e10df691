"""What the adapters of ``lightning`` and ``pytorch_lightning`` share; it imports neither."""
