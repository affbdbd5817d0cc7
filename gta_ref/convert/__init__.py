"""From a pretrained GQA model to GTA: maps shared, values put through a latent, a gate opened; then healed."""
