"""What every benchmark stands on: the machine, the servers, the load, the rounds."""
