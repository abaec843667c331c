"""What a training needs beside the network: parameters, batches, loss, calibration, and the folder of a run."""
