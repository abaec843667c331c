"""From a folder of scans with labels, as it was downloaded, to a list that trains."""
