"""Songs to start from: each fills the form of its task's tab.

Tempo, key and meter stand in the captions: in boxes of their own they would contradict, unseen, the
caption that somebody types instead.
"""

from collections.abc import Mapping
from types import MappingProxyType

from acestep.request import MusicRequest, Text2Music

EXAMPLES: Mapping[type[MusicRequest], Mapping[str, MusicRequest]] = MappingProxyType(
    {
        Text2Music: {
            "Lo-fi rain": Text2Music(
                caption="warm lo-fi beat, dusty drums, mellow electric piano, soft vinyl crackle, "
                "80 bpm, A minor, 4/4"
            ),
            "Synth-pop": Text2Music(
                caption="bright synth-pop, driving bass, gated drums, airy female vocal, "
                "wide chorus, 120 bpm, C major",
                lyrics=(
                    "[Verse]\nStreetlights bloom along the bay\n"
                    "Every window holds a song\n\n"
                    "[Chorus]\nStay up, stay up with me\nUntil the night moves on"
                ),
                vocal_language="en",
            ),
            "Folk ballad": Text2Music(
                caption="quiet folk ballad, fingerpicked acoustic guitar, cello, warm male vocal, "
                "90 bpm, 3/4",
                lyrics=(
                    "[Verse]\nThe kettle hums, the morning waits\n"
                    "A coat of frost on garden gates\n\n"
                    "[Chorus]\nCome home by the old stone wall\nCome home, come home by fall"
                ),
                vocal_language="en",
            ),
            "Techno": Text2Music(
                caption="hypnotic techno, four-on-the-floor kick, acid bass line, "
                "metallic percussion, 132 bpm, 4/4"
            ),
            "Piano solo": Text2Music(
                caption="solo piano, slow and tender, wide dynamics, late-night room, 70 bpm, "
                "Eb major"
            ),
        }
    }
)
