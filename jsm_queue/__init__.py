"""jsm-queue finds the small Japanese model to deploy, with job grids on a pool of consumer GPUs."""

__version__ = "0.1.0"
