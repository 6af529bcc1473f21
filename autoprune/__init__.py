"""autoprune finds the best widths for a convolutional network."""
