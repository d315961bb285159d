"""Cut, write and prove: the folder of an encoder."""
