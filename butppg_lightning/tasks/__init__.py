"""LightningModules: the quality classifier and the masked pretrainer."""
