"""What a report says, as JSON and in words."""

import json

from acestep.library.report import EditReport


def test_a_repaint_report_says_what_changed_where_and_how_smoothly() -> None:
    report = EditReport(
        change_inside_db=11.26,
        seams=(0.974, 1.0),
        source="Outside the region are the file's own samples.",
        notes=("Nothing audible changed.",),
    )
    assert report.sentences() == [
        "Nothing audible changed.",
        "Outside the region 0 samples changed.",
        "Inside it the sound changed by 11.3 dB on average.",
        "Seams: 0.97, 1.00 (1 is none).",
        "Outside the region are the file's own samples.",
    ]


def test_a_cover_report_says_how_alike_the_harmony_is() -> None:
    report = EditReport(chroma_similarity=0.816, change_inside_db=9.0, source="Compared with x.")
    assert report.sentences() == [
        "Harmony: 0.82 like the source (1 is the same, 0 unrelated).",
        "Throughout the sound changed by 9.0 dB on average.",
        "Compared with x.",
    ]


def test_a_changed_sample_is_counted_out_loud() -> None:
    said = EditReport(samples_changed_outside=1, seams=(1.0,)).sentences()
    assert said[0] == "Outside the region 1 sample changed."


def test_a_report_is_json_data() -> None:
    report = EditReport(seams=(0.5,), notes=("a",))
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.to_dict()["seams"] == [0.5] and report.to_dict()["chroma_similarity"] is None
