from __future__ import annotations

import torch

from mtl_core.outputs import OUTPUTS, as_output


def test_softmax_predicts_the_likeliest_class() -> None:
    output = OUTPUTS.build("softmax")
    probs = output(torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]]))
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2))
    assert output.preds(probs).tolist() == [1, 0]
    assert output.has_classes


def test_sigmoid_decides_each_output_by_its_threshold() -> None:
    logits = torch.tensor([[0.0, 2.0], [-2.0, 0.5]])
    assert OUTPUTS.build("sigmoid").preds(torch.sigmoid(logits)).tolist() == [[0, 1], [0, 1]]
    strict = OUTPUTS.build({"type": "sigmoid", "threshold": 0.7})
    assert strict.preds(strict(logits)).tolist() == [[0, 1], [0, 0]]
    assert strict.preds(strict(logits[:, :1])).tolist() == [0, 0]


def test_identity_answers_values() -> None:
    output = OUTPUTS.build("identity")
    assert output.preds(output(torch.tensor([[1.5], [2.0]]))).tolist() == [1.5, 2.0]
    assert not output.has_classes


def test_an_output_stays_what_it_is() -> None:
    softmax = OUTPUTS.build("softmax")
    assert as_output(softmax) is softmax
