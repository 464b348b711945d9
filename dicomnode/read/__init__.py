"""From DICOM files to volumes in patient space."""
