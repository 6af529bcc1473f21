"""Mechanisms on torch: tracing channel groups, surgery, merging, training."""
