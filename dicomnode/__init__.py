"""The DICOM node: receive, keep, route, segment, report, deliver and audit."""
