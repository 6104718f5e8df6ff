"""Files: images, labels, data sets, weights and run folders."""
