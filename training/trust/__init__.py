"""How far a model's numbers can be trusted: calibration, operating point, uncertainty, explanation."""
