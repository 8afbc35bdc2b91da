"""Older forms of labels: read into the language columns (`import_labels`), and written from them (`export_labels`)."""

from tasks.interchange.exports import EXPORTERS, ExportOptions, ExportReport, export_labels
from tasks.interchange.form import FormOptions
from tasks.interchange.imports import FORMS, ImportReport, import_labels

__all__ = [
    "EXPORTERS",
    "FORMS",
    "ExportOptions",
    "ExportReport",
    "FormOptions",
    "ImportReport",
    "export_labels",
    "import_labels",
]
