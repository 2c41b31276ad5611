"""VitalDB: PPG and ECG of surgical patients, for pretraining.

Lee H.-C. et al., VitalDB, a high-fidelity multi-parameter vital signs database in surgical patients. Scientific Data
2022, 9:279, doi:10.1038/s41597-022-01411-5. 6,388 cases of 6,090 patients; `SNUADC/PLETH` at 100 Hz, `SNUADC/ECG_II`
at 500 Hz.
"""
