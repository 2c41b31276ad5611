"""LightningDataModules and samplers over the npz splits."""
