"""TensorBoard's event files: each event is with the system when it is told; no thread, no fsync."""

import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.summary_v2 import (
    HParam,
    Metric,
    hparams_config_pb,
    hparams_pb,
)
from tensorboard.summary.writer.record_writer import RecordWriter

_number = count()
_SCALARS = SummaryMetadata.PluginData(plugin_name="scalars")


class EventFile:
    """One file of events in a run's folder; whoever kills its writer loses nothing of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a run's files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = (folder / f"{name}.{os.getpid()}.{next(_number)}").open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalars(self, values: Mapping[str, float], step: int, told: str = "") -> None:
        """Write numbers at one step.

        Args:
            values: by tag.
            step: place on the x axis.
            told: what the x axis is, shown beside each curve.
        """
        described = SummaryMetadata(plugin_data=_SCALARS, summary_description=told)
        found = [
            Summary.Value(tag=tag, simple_value=value, metadata=described)
            for tag, value in values.items()
        ]
        self._summary(Summary(value=found), step)

    def image(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Write a picture of (width, height) pixels."""
        image = Summary.Image(width=size[0], height=size[1], encoded_image_string=png)
        self._summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def table(self, columns: list[str], metrics: Mapping[str, str]) -> None:
        """Say what the table of runs shows: settings by name, metrics by tag and title."""
        asked = [HParam(name) for name in columns]
        shown = [Metric(tag, display_name=title) for tag, title in metrics.items()]
        self._serialized(hparams_config_pb(asked, shown).SerializeToString())

    def row(self, key: str, settings: Mapping[str, float | str]) -> None:
        """Write a run's settings: its row of that table."""
        ended = plugin_data_pb2.HParamsPluginData(
            session_end_info=plugin_data_pb2.SessionEndInfo(
                status=STATUS_SUCCESS, end_time_secs=time.time()
            )
        )
        end = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(ended),
            tensor=metadata.NULL_TENSOR,
        )
        self._serialized(hparams_pb(dict(settings), trial_id=key).SerializeToString())
        self._summary(Summary(value=[end]), 0)

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _serialized(self, summary: bytes) -> None:
        """Write a summary that another copy of the same message class made."""
        self._summary(Summary.FromString(summary), 0)

    def _summary(self, summary: Summary, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()  # to the system, not to the disk
