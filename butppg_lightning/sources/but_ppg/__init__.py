"""The BUT PPG database as PhysioNet releases it (v1.0.0, v2.0.0), turned into windows.

Nemcova A. et al., Brno University of Technology Smartphone PPG Database (BUT PPG), version 2.0.0, PhysioNet 2024,
doi:10.13026/tn53-8153; the first release is described in BioMed Research International 2021, 3453007.
"""
