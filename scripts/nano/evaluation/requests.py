"""The requests of an evaluation: one score, asked for in several ways."""

from acestep.request import MusicRequest, Plan
from scripts.nano.data.codes import score_codes
from scripts.nano.data.score import Score
from scripts.nano.evaluation.judge_planner import caption_request


def thinking_request(score: Score) -> MusicRequest:
    """A caption is all that a planner needs."""
    return caption_request(score).model_copy(update={"think": True})


def plain_request(score: Score) -> MusicRequest:
    """Without a planner nobody fills in what the DiT is told of tempo and key, so the user does."""
    return with_metadata(caption_request(score).model_copy(update={"think": False}), score)


def unguided_request(score: Score) -> MusicRequest:
    return plain_request(score).model_copy(update={"guidance_scale": 1.0})


def coded_request(score: Score) -> MusicRequest:
    plan = Plan(codes=(tuple(score_codes(score)),))
    return with_metadata(caption_request(score).model_copy(update={"plan": plan}), score)


def with_metadata(request: MusicRequest, score: Score) -> MusicRequest:
    """The facts as settings too."""
    return request.model_copy(
        update={
            "bpm": score.bpm,
            "key_scale": score.key_scale,
            "time_signature": score.time_signature,
            "vocal_language": score.language,
        }
    )
