"""Training dialogues from files of other formats, each row read or refused with its reason.

``detect`` says what a file is and how its columns are read; ``read_file`` reads it, as detected or
as told. Nothing is dropped in silence.
"""

from charllm.data.importing.detecting import Detected, detect
from charllm.data.importing.formats import FORMATS
from charllm.data.importing.reading import Imported, read_file
from charllm.data.importing.rejecting import Rejected, write_rejected_csv
from charllm.data.importing.talks import Format

__all__ = [
    "FORMATS",
    "Detected",
    "Format",
    "Imported",
    "Rejected",
    "detect",
    "read_file",
    "write_rejected_csv",
]
