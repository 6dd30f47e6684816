"""The 5 Hz planner: a request becomes a plan, metadata first, then five audio codes per second.

Knows prompts, grammars and seeds; how tokens are computed is the backend's business.
"""

from collections.abc import Sequence
from dataclasses import replace

from acestep.errors import UnsoundResult
from acestep.models.constants import LYRICS_TOKENS
from acestep.planner import prompt as prompts
from acestep.planner import think_block as plans
from acestep.planner.backends import Backend, Continuation
from acestep.planner.grammar import (
    FREE_TEXT_TOKENS,
    AudioCodeConstraint,
    BlockLayout,
    MetadataGrammar,
    TokenConstraint,
    prepare,
)
from acestep.planner.prompt import Guided
from acestep.planner.sampling import Sampling
from acestep.planner.think_block import Description
from acestep.planner.watchdog import refuse_loops, watched
from acestep.progress import Reporter
from acestep.request import Plan, Preset, Text2Music
from acestep.request.planned import PlannedRequest
from acestep.seeds import draw_seed, take_seed

BLOCK_TOKENS = 128  # the `<think>` block without its free text
UNDERSTAND_TEMPERATURE = 0.3  # a description should not surprise


class Planner:
    """Writes plans, and describes and rewrites songs, with one language model."""

    def __init__(
        self,
        backend: Backend,
        *,
        caption_tokens: int = FREE_TEXT_TOKENS,
        lyrics_tokens: int = LYRICS_TOKENS,
        takes_at_once: int | None = None,
    ) -> None:
        """
        Args:
            takes_at_once: how many takes are written together; None is all of them. Memory grows
                with it: every take remembers all that it has read and written.
            caption_tokens: where a model that does not end its caption is stopped.
            lyrics_tokens: the same for lyrics, which only the helper modes write.
        """
        self.backend = backend
        self._caption_tokens = caption_tokens
        self._lyrics_tokens = lyrics_tokens
        self.takes_at_once = takes_at_once

    @property
    def codebook_size(self) -> int:
        """How many different codes the model can write; the DiT must know as many."""
        return self.backend.vocabulary.codebook_size

    def prepare(self, preset: Preset) -> None:
        """Import what grammars need, and compile the one that a checkpoint's plans begin with."""
        prepare(self.backend.vocabulary, preset.longest_plan, has_caption=preset.rewrite_caption)

    def plan(self, request: PlannedRequest, preset: Preset, report: Reporter) -> Plan:
        """Plan every take of a request: one set of metadata, one row of codes per take.

        What the user chose is in the plan as it was given.

        Args:
            request: with what the user left open still `None`; without a seed, one is drawn.
            preset: says how long a song may be chosen, and whether a caption is rewritten where
                the request leaves that open.

        Raises:
            UnsoundResult: the model stalled, fell into a loop, or returned meaningless logits.
            Cancelled: noticed every few tokens.
        """
        request = request.seeded()
        metadata = self.metadata(request, preset, report)
        return metadata.model_copy(update={"codes": self.codes(request, metadata, report)})

    def metadata(self, request: PlannedRequest, preset: Preset, report: Reporter) -> Plan:
        """Phase 1: what the user left open, and, to be rewritten, the caption.

        As in the helper modes nothing is guided here: `lm_cfg_scale` is for the codes. When there
        is nothing to write, nothing is asked, and the codes follow the four values alone.
        """
        chosen, rewrites = request.given(), request.rewrites(preset)
        if plans.is_whole(chosen) and not rewrites:
            return chosen.model_copy(update={"vocal_language": None})
        layout = BlockLayout(given=chosen, has_caption=rewrites, max_duration=preset.longest_plan)
        grammar = self._grammar(layout)
        self._write(
            prompts.metadata_prompt(request),
            [grammar],
            [_seed(request)],
            name="planner/metadata",
            sampling=Sampling.of(request),
            scale=1.0,
            max_tokens=BLOCK_TOKENS + self._caption_tokens,
            report=report,
        )
        return plans.keep_given(plans.from_text(grammar.text), chosen)

    def codes(
        self, request: PlannedRequest, metadata: Plan, report: Reporter
    ) -> tuple[tuple[int, ...], ...]:
        """Phase 2: exactly five codes per second for every take."""
        if metadata.duration is None:
            raise UnsoundResult("The planner named no length for the song. Try another seed.")
        count = plans.code_count(metadata.duration)
        constraints = [
            AudioCodeConstraint(self.backend.vocabulary, count) for _ in range(request.takes)
        ]
        seeds = [take_seed(_seed(request), take) for take in range(request.takes)]
        size = self.takes_at_once or request.takes
        for first in range(0, request.takes, size):
            self._write(
                prompts.codes_prompt(request, metadata),
                constraints[first : first + size],
                seeds[first : first + size],
                name="planner/codes",
                sampling=Sampling.of(request),
                scale=request.lm_cfg_scale,
                max_tokens=count + 1,
                report=report,
                before=first // size,
                groups=-(-request.takes // size),
            )
        return tuple(tuple(constraint.codes) for constraint in constraints)

    def understand(
        self, codes: Sequence[int], report: Reporter, seed: int | None = None
    ) -> Description:
        """Metadata, genres and lyrics of a song, from its codes."""
        prompt = prompts.understand_prompt(codes)
        return self._describe(prompt, Plan(), UNDERSTAND_TEMPERATURE, seed, report)

    def create(self, idea: Text2Music, report: Reporter) -> Description:
        """Caption, lyrics and metadata from an idea, which is the request's caption.

        Of the user's values only the language is kept; the rest is the model's to invent.
        """
        prompt = prompts.create_prompt(idea.caption, instrumental=idea.is_instrumental)
        chosen = Plan(vocal_language=idea.given().vocal_language)
        return self._describe(prompt, chosen, idea.lm_temperature, idea.seed, report)

    def format(self, request: Text2Music, report: Reporter) -> Description:
        """The request's caption and lyrics rewritten the way the models know best."""
        prompt = prompts.format_prompt(request.caption, request.lyrics)
        chosen = request.given()
        found = self._describe(prompt, chosen, request.lm_temperature, request.seed, report)
        return found if found.lyrics else replace(found, lyrics=request.lyrics)

    def close(self) -> None:
        """Give the memory back; the planner cannot be used afterwards."""
        self.backend.close()

    def _describe(
        self, prompt: str, chosen: Plan, temperature: float, seed: int | None, report: Reporter
    ) -> Description:
        """A helper mode: a block with genres, then lyrics; never guided, for it is all words."""
        grammar = self._grammar(BlockLayout(given=chosen, has_genres=True, has_lyrics=True))
        self._write(
            Guided(prompt, prompt),
            [grammar],
            [draw_seed() if seed is None else seed],
            name="planner/describe",
            sampling=Sampling(temperature),
            scale=1.0,
            max_tokens=BLOCK_TOKENS + 2 * self._caption_tokens + self._lyrics_tokens,
            report=report,
        )
        found = plans.describe(grammar.text)
        return replace(found, plan=plans.keep_given(found.plan, chosen))

    def _grammar(self, layout: BlockLayout) -> MetadataGrammar:
        return MetadataGrammar(self.backend.vocabulary, layout, self._caption_tokens)

    def _write(
        self,
        prompt: Guided,
        constraints: Sequence[TokenConstraint],
        seeds: Sequence[int],
        *,
        name: str,
        sampling: Sampling,
        scale: float,
        max_tokens: int,
        report: Reporter,
        before: int = 0,
        groups: int = 1,
    ) -> None:
        """Let the backend write; what it wrote is in the constraints.

        Args:
            before, groups: how many groups of takes are written already, and how many there are.
        """
        encode = self.backend.vocabulary.encode
        continuation = Continuation(
            conditional=encode(prompt.conditional),
            unconditional=encode(prompt.unconditional),
            constraints=constraints,
            seeds=seeds,
            name=name,
            sampling=sampling,
            scale=scale,
            max_tokens=max_tokens,
        )
        report("planning", before * max_tokens, groups * max_tokens)
        for tokens in watched(
            lambda on_token: self.backend.generate(continuation, on_token),
            lambda done, total: report("planning", before * total + done, groups * total),
        ):
            refuse_loops(tokens)


def _seed(request: PlannedRequest) -> int:
    return draw_seed() if request.seed is None else request.seed
