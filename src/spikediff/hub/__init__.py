"""Loading models, and publishing them on the Hugging Face Hub with a model card."""

from spikediff.hub.card import model_card
from spikediff.hub.describe import ModelFacts, Stage, gather_facts
from spikediff.hub.repository import check_repository_name, upload_repository, write_repository
from spikediff.hub.results import Results, collect_results, measure_energy

__all__ = [
    "ModelFacts",
    "Results",
    "Stage",
    "check_repository_name",
    "collect_results",
    "gather_facts",
    "measure_energy",
    "model_card",
    "upload_repository",
    "write_repository",
]
