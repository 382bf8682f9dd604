"""The public surface: changing it needs a note in CHANGELOG.md."""

import subprocess
import sys

import chextriev
from chextriev import anatomy, errors
from chextriev.cli import VERBS

PUBLIC = {
    *("SYSTEMS", "VARIANTS", "ChextrievError", "Embeddings", "Encoder", "EncoderBundle", "Finding", "Radiograph"),
    *("Region", "RegionBoxes", "StudyTable", "SystemSpec", "VariantSpec", "find_system", "open_bundle", "open_encoder"),
    *("RadiographImage", "ReadSettings", "read_boxes", "read_image", "read_images", "read_radiograph"),
    "read_study_table",
}


def test_public_names() -> None:
    assert set(chextriev.__all__) == PUBLIC
    assert all(hasattr(chextriev, name) for name in PUBLIC)


def test_verbs() -> None:
    assert set(VERBS) == {
        "data",
        "train",
        "export",
        "embed",
        "index",
        "query",
        "serve",
        "eval",
        "bench",
        "demo",
        "doctor",
    }


def test_every_error_is_in_the_tree_that_its_module_draws() -> None:
    drawn = set(str(errors.__doc__).replace(",", " ").split())
    classes = {name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)}
    assert classes <= drawn


def test_vocabulary_order() -> None:
    assert anatomy.Region.labels()[:3] == ("right lung", "right apical zone", "right upper lung zone")
    assert anatomy.Region.labels()[14:] == ("mediastinum", "upper mediastinum", "cardiac silhouette", "trachea")
    assert [region.side for region in anatomy.Region] == ["right"] * 7 + ["left"] * 7 + [None] * 4
    assert anatomy.Finding.labels()[8] == "pneumonia"
    assert len(anatomy.Finding) == 9


def test_importing_the_nouns_is_light() -> None:
    code = "import sys, chextriev; print([m for m in ('torch', 'faiss', 'pyarrow', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
