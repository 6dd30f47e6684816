"""Songs to start from: each fills the form of the Text2Music tab."""

from collections.abc import Mapping
from types import MappingProxyType

from acestep.request import Text2Music

EXAMPLES: Mapping[str, Text2Music] = MappingProxyType(
    {
        "Lo-fi rain": Text2Music(
            caption="warm lo-fi beat, dusty drums, mellow electric piano, soft vinyl crackle",
            bpm=80,
            key_scale="A minor",
            time_signature=4,
        ),
        "Synth-pop": Text2Music(
            caption="bright synth-pop, driving bass, gated drums, airy female vocal, wide chorus",
            lyrics=(
                "[Verse]\nStreetlights bloom along the bay\n"
                "Every window holds a song\n\n"
                "[Chorus]\nStay up, stay up with me\nUntil the night moves on"
            ),
            vocal_language="en",
            bpm=120,
            key_scale="C major",
        ),
        "Folk ballad": Text2Music(
            caption="quiet folk ballad, fingerpicked acoustic guitar, cello, warm male vocal",
            lyrics=(
                "[Verse]\nThe kettle hums, the morning waits\n"
                "A coat of frost on garden gates\n\n"
                "[Chorus]\nCome home by the old stone wall\nCome home, come home by fall"
            ),
            vocal_language="en",
            bpm=90,
            time_signature=3,
        ),
        "Techno": Text2Music(
            caption="hypnotic techno, four-on-the-floor kick, acid bass line, metallic percussion",
            bpm=132,
            time_signature=4,
        ),
        "Piano solo": Text2Music(
            caption="solo piano, slow and tender, wide dynamics, late-night room",
            bpm=70,
            key_scale="Eb major",
        ),
    }
)
