"""A VAE, a beta-VAE and a beta-TCVAE trained on the same images, and what they learn compared."""
