"""Reading and writing checkpoints: torch and safetensors files, pretrained encoders, trained classifiers."""
