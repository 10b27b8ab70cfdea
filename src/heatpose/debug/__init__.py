"""Where an int8 file drifts from its float file: by keypoint, by picture and by layer (`heatpose debug-quant`).

layers.py   signal to noise of every tensor that both files store
drift.py    how far keypoints move, and the pictures where they move most
write.py    the tables, the plot and the picture
"""
