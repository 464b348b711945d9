"""One adapter per layout of a data set on disk, and the general one for pairs of image and mask."""
