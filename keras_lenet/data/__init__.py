"""Digit images: IDX files, datasets, and the tf.data pipeline that augments them."""
