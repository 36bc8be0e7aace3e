"""Data that is read in order from shards: the contract, one adapter for each engine, and the loader over them."""

from ida_lightning.data.streaming.hugging_face import HuggingFaceStream
from ida_lightning.data.streaming.lit import LitDataStream
from ida_lightning.data.streaming.stream import ImageStream, StreamedImage, StreamShare
from ida_lightning.data.streaming.web import WebDatasetStream

__all__ = ["HuggingFaceStream", "ImageStream", "LitDataStream", "StreamShare", "StreamedImage", "WebDatasetStream"]
