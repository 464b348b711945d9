"""What can go wrong between voxels and lesions. The caller decides what becomes of the job."""


class InferenceError(Exception):
    """Base of all errors of this package. The message names the thing, the value and the remedy."""


class BundleError(InferenceError):
    """A model bundle is incomplete, altered, or asks for something that is not allowed."""


class DeviceMissing(InferenceError):
    """The settings name a device that this machine has not got."""


class NotCompiled(InferenceError):
    """A network could not be compiled, or answers otherwise when it is; it runs as it is."""


class NotFinite(InferenceError):
    """A network answered with what is no finite number, which no probability comes from."""


class UnsuitableVolume(InferenceError):
    """The volume cannot be given to this model: wrong unit, no geometry, organ not in view."""


class MissingGeometry(InferenceError):
    """A position in the patient was asked of a volume that has none."""


class OutOfMemory(InferenceError):
    """The device could not hold even the smallest piece of work. Trying again later may help."""
