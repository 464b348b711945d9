"""The commands of `dicomtrain`, one module each."""
