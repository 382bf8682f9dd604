"""Generated chest radiographs in the layout of MIMIC-CXR-JPG and Chest ImaGenome, for demonstrations and tests."""
