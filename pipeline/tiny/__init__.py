"""The embedded model: a scene generator, the training scripts and the two bundles they made."""
