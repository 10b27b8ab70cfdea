"""Int8 quantisation: calibration, PTQ, QAT, selection of the method, writing of the file."""
