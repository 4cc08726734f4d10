"""What a cloud needs to run functions, and a Lambda that runs on this machine."""
