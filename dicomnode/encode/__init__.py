"""Lesions in, DICOM Segmentation and TID 1500 reports out; nothing leaves that contradicts its source."""
