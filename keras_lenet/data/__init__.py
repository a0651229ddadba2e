"""Digit images: the IDX format, the datasets, and the tf.data pipeline that warps them."""
