"""Voxels in, label map and measured lesions out. Knows no DICOM, no network and no database."""
