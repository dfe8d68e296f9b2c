"""Names the files of a saved model; it imports no torch, since tables and clusters need the names alone."""

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"  # written after the weights: where it exists, the model is whole
BACKBONE_FILE = "backbone.json"  # where the kept backbone of a frozen model lies
