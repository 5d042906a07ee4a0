"""`make report`: one HTML page of a run with everything in it, to be read with no network."""
