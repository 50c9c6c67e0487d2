"""Model architectures, the classes that build them, and the registry of known checkpoints."""
