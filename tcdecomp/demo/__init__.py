"""A VAE, a beta-VAE and a beta-TCVAE, trained on the same images and compared.

``__main__`` reads the options; ``images`` has the data, ``models`` the training and the
measurements, ``comparison`` the table and the picture.
"""
