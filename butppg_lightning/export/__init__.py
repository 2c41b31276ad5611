"""A trained network in forms that other programs read: ONNX, int8 ONNX, safetensors with JSON."""
