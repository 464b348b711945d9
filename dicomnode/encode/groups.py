"""Measurement groups of reports: what those of every kind have in common, and their numbers (TID 300)."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicomnode.encode.concepts import (
    ALGORITHM_MANUFACTURER,
    ALGORITHM_NAME,
    ALGORITHM_PARAMETERS,
    ALGORITHM_VERSION,
    DERIVATION,
    FINDING,
    FINDING_SITE,
    MEASUREMENT_GROUP,
    MEASUREMENT_METHOD,
    TRACKING_IDENTIFIER,
    TRACKING_UID,
    UNITS,
    rounded,
)
from dicomnode.encode.context import ResultContext
from dicomnode.encode.dress import plain_text
from dicomnode.encode.equipment import MANUFACTURER
from dicomnode.encode.tree import code_item, container, number_item, text_item, uid_item
from dicomnode.encode.uids import tracking_uid
from inference.codes import Code as CardCode
from inference.measure import LesionMeasurement, Quantity


def measurement_group(
    template: str,
    identifier: str,
    measurement: LesionMeasurement,
    content: Iterable[Dataset],
    context: ResultContext,
) -> Dataset:
    """A group by TID 1410, 1411 or 1501: how a lesion is tracked, what it is, who says so; then `content`."""
    label = measurement.label
    return container(
        MEASUREMENT_GROUP,
        [
            text_item(TRACKING_IDENTIFIER, identifier, "HAS OBS CONTEXT"),
            uid_item(TRACKING_UID, tracking_uid(context, measurement.number), "HAS OBS CONTEXT"),
            code_item(FINDING, _plain_code(label.type), "CONTAINS"),
            *([code_item(FINDING_SITE, _plain_code(label.site), "HAS CONCEPT MOD")] if label.site else []),
            *_algorithm(context),
            *content,
        ],
        template=template,
    )


def measured(
    name: Code,
    quantity: Quantity,
    content: Iterable[Dataset] = (),
    method: Code | None = None,
    derivation: Code | None = None,
) -> Dataset:
    """One number, how it came about, and what it was drawn on."""
    modifiers = ((MEASUREMENT_METHOD, method), (DERIVATION, derivation))
    said = [code_item(what, code, "HAS CONCEPT MOD") for what, code in modifiers if code is not None]
    return number_item(name, rounded(quantity.value), UNITS[quantity.unit], content=[*said, *content])


def _algorithm(context: ResultContext) -> list[Dataset]:
    """TID 4019: the model that made a measurement group."""
    return [
        text_item(name, words, "HAS CONCEPT MOD")
        for name, words in (
            (ALGORITHM_NAME, plain_text(context.card.title)),
            (ALGORITHM_VERSION, context.card.version),
            (ALGORITHM_MANUFACTURER, MANUFACTURER),
            (ALGORITHM_PARAMETERS, f"sha256={context.model_digest}"),
        )
    ]


def _plain_code(code: CardCode) -> Code:
    return Code(code.value, code.scheme, plain_text(code.meaning))
