"""The multi-domain content and attribute GAN."""
