"""Settings -> whether the device can run the model: what is known before anything is loaded."""

from __future__ import annotations

from worker.artifact.manifest import Manifest, read_manifest
from worker.artifact.model_names import is_source, place_of
from worker.contract.i18n import gettext_noop as N_
from worker.contract.settings import Settings
from worker.errors import ArtifactError, DeviceError


def check_fitness(settings: Settings) -> None:
    """Refuse precisions that the model or the device does not have.

    Files of the model are not looked at, the hub is not asked, and whether there is such a device
    is left open.

    Raises:
        ArtifactError: the artifact has another precision than asked for, or cannot be used.
        DeviceError: the device does not run models of this precision.
    """
    check_device_runs(settings.device, settings.precision)
    if not is_source(settings.model):
        manifest = read_manifest(place_of(settings.model))
        check_precision(manifest, manifest.name, settings.precision)
        check_device_runs(settings.device, manifest.precision)


def check_precision(manifest: Manifest, name: str, wanted: str) -> None:
    """Refuse an artifact of another precision than asked for; `name` is what to call it.

    Raises:
        ArtifactError: it has another.
    """
    if wanted not in {"auto", manifest.precision}:
        raise ArtifactError(
            N_("model {model} was exported in {found}, not {wanted}: export it again"),
            model=name,
            found=manifest.precision,
            wanted=wanted,
        )


def check_device_runs(device: str, precision: str) -> None:
    """Refuse a precision that a kind of device does not have; `auto` takes one that has it.

    Raises:
        DeviceError: it does not have it.
    """
    if device == "cpu" and precision == "fp16":
        raise DeviceError(
            N_("an fp16 model runs on CUDA alone; export one in bf16 or int8 for the CPU")
        )
    if device.startswith("cuda") and precision == "int8":
        raise DeviceError(N_("an int8 model runs on the CPU alone; export one in fp16 for CUDA"))
