"""Training: data sets, features, encoders and the Lightning module that fits them."""
