from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from app.storage.encoders import EncoderError, SentenceEncoders
from mtl_core.preprocessing import (
    FieldPlan,
    FittedField,
    SentenceEncoderInfo,
    Summariser,
    TextColumn,
    fit_field,
)


def field(info: SentenceEncoderInfo) -> FittedField:
    column = TextColumn(name="review", encoder="minilm")
    summariser = Summariser(column)
    summariser.add(pa.array(["good", "bad"]), 0)
    return fit_field(FieldPlan(columns=[column]), {"review": summariser.finish()}, {"minilm": info})


def test_a_folder_that_holds_no_encoder_is_refused(tmp_path: Path) -> None:
    encoders = SentenceEncoders({"minilm": tmp_path / "none"})
    assert list(encoders) == ["minilm"]
    with pytest.raises(EncoderError, match="sentence encoder 'minilm' cannot be loaded"):
        encoders.info("minilm")


def test_what_is_not_installed_is_told_before_anything_is_encoded() -> None:
    fitted = field(SentenceEncoderInfo(dim=8, sha256="0" * 64))
    assert fitted.shape == [8]
    with pytest.raises(EncoderError, match="'minilm' is not installed here"):
        SentenceEncoders({}).check({"text": fitted})
    SentenceEncoders({}).check({})


def test_an_encoder_encodes_and_is_known_by_its_files(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs the extra 'text'")
    transformers = pytest.importorskip("transformers")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=len(vocabulary), **sizes))
    bert.save_pretrained(tmp_path / "bert")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    library.SentenceTransformer(str(tmp_path / "bert")).save(str(tmp_path / "encoder"))

    encoders = SentenceEncoders({"minilm": tmp_path / "encoder"})
    fitted = field(encoders.info("minilm"))
    encoders.check({"text": fitted})
    vectors = fitted.encode({"review": pa.array(["good", None])}, encoders)
    assert vectors.shape == (2, 8)
    assert vectors[0].any()
    assert not vectors[1].any()
    (tmp_path / "encoder" / "README.md").write_text("another one")
    with pytest.raises(EncoderError, match="not the one that the version was trained with"):
        SentenceEncoders({"minilm": tmp_path / "encoder"}).check({"text": fitted})
