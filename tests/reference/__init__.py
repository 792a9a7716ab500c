"""Independent implementations that the tests compare with; slow, plain and in float64."""
