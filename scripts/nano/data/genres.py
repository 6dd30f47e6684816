"""The styles of the synthetic songs: tempi, instruments, figures, and the words for them."""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Genre:
    """What a style allows. Pairs are (instrument, figure); figures are played by `score`.

    `patterns` name drum patterns; without any the style has no drums unless they are asked for.
    """

    tempi: tuple[int, int]  # beats per minute
    kit: str
    patterns: tuple[str, ...]
    basses: tuple[tuple[str, str], ...]
    chords: tuple[tuple[str, str], ...]
    leads: tuple[str, ...]
    names: tuple[str, ...]
    moods: tuple[str, ...]
    sings: float = 0.3  # share of songs with a voice
    minor: float = 0.5  # share of songs in minor
    swing: float = 0.0  # of a sixteenth, by which every second one comes late
    reverb: float = 0.2
    sidechain: float = 0.0  # how far a kick pushes the rest down
    brightness: int = 1  # 0 dark, 1 normal, 2 bright
    metres: tuple[int, ...] = (4,)


GENRES = MappingProxyType(
    {
        "ambient": Genre(
            (60, 84), "808", (), (("sub", "root"),), (("pad", "hold"), ("strings", "hold")),
            ("harp",),
            ("ambient", "ambient soundscape", "meditation music", "space music"),
            ("calm", "ethereal", "dreamy", "peaceful", "floating"),
            sings=0.15, reverb=0.5, brightness=0,
        ),
        "chiptune": Genre(
            (120, 170), "chip", ("chip",), (("chipbass", "octaves"), ("chipbass", "eighths")),
            (("square", "arpeggio"),), ("square",),
            ("chiptune", "8-bit", "video game music", "8-bit chiptune"),
            ("playful", "bright", "fun", "cheerful"),
            sings=0.1, reverb=0.0, brightness=2,
        ),
        "classical": Genre(
            (70, 126), "jazz", (), (("strings", "root"),),
            (("piano", "arpeggio"), ("piano", "beats")), ("strings", "flute"),
            ("classical", "chamber music", "romantic piano", "neoclassical"),
            ("elegant", "expressive", "romantic", "gentle"),
            sings=0.1, reverb=0.35, metres=(4, 4, 3),
        ),
        "folk": Genre(
            (84, 120), "jazz", ("soft",), (("upright", "root"),), (("guitar", "strum"),),
            ("flute", "guitar"),
            ("folk", "acoustic folk", "singer-songwriter", "acoustic ballad"),
            ("warm", "intimate", "gentle", "honest"),
            sings=0.6, minor=0.35, metres=(4, 4, 4, 3, 6, 2),
        ),
        "funk": Genre(
            (96, 115), "rock", ("funk",), (("ebass", "funk"),), (("epiano", "stabs"),),
            ("brass",),
            ("funk", "disco funk", "soul funk", "funky groove"),
            ("groovy", "funky", "upbeat", "sassy"),
            sings=0.4, reverb=0.1, brightness=2,
        ),
        "hiphop": Genre(
            (80, 100), "808", ("boom",), (("sub", "kick"),), (("piano", "beats"),), ("harp",),
            ("hip hop", "boom bap", "rap beat", "hip-hop"),
            ("laid-back", "gritty", "confident", "head-nodding"),
            sings=0.5, minor=0.75, reverb=0.12,
        ),
        "jazz": Genre(
            (100, 160), "jazz", ("jazz",), (("upright", "walk"),), (("piano", "stabs"),),
            ("brass", "vibes"),
            ("jazz", "swing jazz", "jazz trio", "bebop"),
            ("smooth", "swinging", "sophisticated", "late-night"),
            sings=0.25, swing=0.55,
        ),
        "lofi": Genre(
            (70, 90), "lofi", ("boom",), (("upright", "root"),), (("epiano", "beats"),),
            ("vibes", "flute"),
            ("lofi hip hop", "lo-fi beat", "chillhop", "lo-fi"),
            ("mellow", "relaxed", "nostalgic", "cozy"),
            sings=0.15, swing=0.2, reverb=0.25, brightness=0,
        ),
        "rock": Genre(
            (110, 150), "rock", ("rock",), (("ebass", "eighths"),), (("distortion", "eighths"),),
            ("organ", "distortion"),
            ("rock", "alternative rock", "indie rock", "hard rock"),
            ("energetic", "raw", "anthemic", "powerful"),
            sings=0.5, reverb=0.12, brightness=2,
        ),
        "synthpop": Genre(
            (84, 126), "808", ("disco",), (("synthbass", "eighths"),), (("pad", "hold"),),
            ("saw",),
            ("synth-pop", "synthwave", "80s pop", "retrowave"),
            ("neon", "romantic", "shiny", "driving"),
            sings=0.6, reverb=0.3, sidechain=0.5,
        ),
        "techno": Genre(
            (120, 140), "909", ("techno",), (("synthbass", "offbeat"),), (("saw", "stabs"),),
            ("pluck",),
            ("techno", "hypnotic techno", "minimal techno", "club techno"),
            ("driving", "dark", "hypnotic", "pounding"),
            sings=0.15, minor=0.85, sidechain=0.8,
        ),
    }
)  # fmt: skip

USUAL_TEMPI = (
    60, 65, 70, 75, 80, 84, 90, 96, 100, 105, 110, 115, 120, 126, 132, 140, 150, 160, 170,
)  # fmt: skip
"""Beats per minute that most songs use; the others are any whole number of their style."""

# One letter per sixteenth of a bar of four, of three quarters ("3") or of six eighths ("6"):
# x is a hit, o a soft one.
PATTERNS = MappingProxyType(
    {
        "boom": {
            "kick": "x......x..x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x.",
        },
        "chip": {
            "kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x.",
        },
        "disco": {
            "kick": "x...x...x...x...", "snare": "....x.......x...", "open": "..x...x...x...x.",
        },
        "funk": {
            "kick": "x.x.......x.....", "snare": "....x.......x...", "hat": "xoxoxoxoxoxoxoxo",
        },
        "jazz": {
            "kick": "o...o...o...o...", "snare": "....o.......o...", "ride": "x...x..xx...x..x",
        },
        "rock": {
            "kick": "x.....x.x.......", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x.",
        },
        "soft": {
            "kick": "x.......x.......", "rim": "....x.......x...", "shaker": "x.o.x.o.x.o.x.o.",
        },
        "techno": {
            "kick": "x...x...x...x...", "clap": "....x.......x...", "hat": "..x...x...x...x.",
        },
        "3": {"kick": "x...........", "snare": "....o...o...", "hat": "x...x...x..."},
        "6": {"kick": "x...........", "snare": "......x.....", "hat": "x.x.x.x.x.x."},
    }
)  # fmt: skip
