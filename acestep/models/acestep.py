"""All that one `model.safetensors` holds: DiT, condition encoder, codec and null condition."""

from torch import nn

from acestep.models.codec import AudioDetokenizer, AudioTokenizer
from acestep.models.condition import ConditionEncoder
from acestep.models.config import AceStepConfig
from acestep.models.dit import DiT
from acestep.models.initialize import gaussian
from acestep.types import States


class AceStep(nn.Module):
    """The networks of one checkpoint under the names of its keys; the pipeline calls each."""

    def __init__(self, config: AceStepConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = DiT(config)
        self.encoder = ConditionEncoder(config)
        self.tokenizer = AudioTokenizer(config)
        self.detokenizer = AudioDetokenizer(config)
        self.null_condition_emb = gaussian(1, 1, config.encoder.hidden_size)

    def null_condition(self, states: States) -> States:
        """The unconditional half of guidance: one learned vector in place of every state."""
        return self.null_condition_emb.to(states).expand_as(states)
