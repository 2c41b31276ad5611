"""A trained network in forms that other programs read: ONNX, safetensors with JSON."""
