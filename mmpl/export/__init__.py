"""Hand-over of encoders to other libraries."""
