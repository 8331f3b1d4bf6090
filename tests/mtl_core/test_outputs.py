from __future__ import annotations

import pytest
import torch

from mtl_core.outputs import OUTPUTS, as_output


def test_softmax_predicts_the_likeliest_class() -> None:
    output = OUTPUTS.build("softmax")
    probs = output(torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]]))
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2))
    assert output.preds(probs).tolist() == [1, 0]
    assert output.has_classes


@pytest.mark.parametrize("shape", [[4], [3_000], [3, 4], [3, 1_000]])
@pytest.mark.parametrize("k", [1, 2, 5, 120])
def test_softmax_predicts_from_logits_what_it_predicts_from_their_probabilities(
    shape: list[int], k: int
) -> None:
    output = OUTPUTS.build("softmax")
    torch.manual_seed(0)
    shape = [shape[0], k, *shape[1:]]
    logits = torch.randn(shape)
    nearly = logits[:, :1] + torch.randint(0, 3, shape) * 3e-8
    odd = logits.clone()
    odd[torch.rand(shape) < 0.2] = torch.inf
    odd[torch.rand(shape) < 0.2] = -torch.inf
    odd[torch.rand(shape) < 0.1] = torch.nan
    for case in (logits, logits.round(), nearly, odd, logits * 1e30, logits.double(), logits.bfloat16()):
        # Sums along columns round otherwise than along rows, which settles what is nearly equal.
        rows = case.movedim(1, -1).reshape(-1, k)
        assert torch.equal(output.preds_of(case).reshape(-1), output.preds(output(rows)))
    if k > 1 and logits.numel() > 5_000:
        assert not torch.equal(nearly.argmax(dim=1), output.preds_of(nearly))


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


def test_ordinal_probabilities_are_of_classes_and_never_out_of_order() -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 3
    output = OUTPUTS.build("ordinal")
    probs = output(logits)
    above = torch.sigmoid(logits).cumprod(dim=1)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(20))
    assert (probs >= 0).all()
    torch.testing.assert_close(probs[:, 0], 1 - above[:, 0])
    torch.testing.assert_close(probs[:, 2], above[:, 1] - above[:, 2])
    torch.testing.assert_close(probs[:, 4], above[:, 3])
    assert output.preds(probs).tolist() == (above > 0.5).sum(dim=1).tolist()
    assert len(set(output.preds(probs).tolist())) > 2
    assert output.has_classes


def test_ordinal_predicts_the_median_rather_than_the_likeliest_class() -> None:
    output = OUTPUTS.build("ordinal")
    assert output.preds(torch.tensor([[0.4, 0.25, 0.35], [0.6, 0.0, 0.4]])).tolist() == [1, 0]
    certain = output(torch.tensor([[50.0, 50.0], [-50.0, 50.0], [50.0, -50.0]]))
    assert output.preds(certain).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="classes in order"):
        output(torch.zeros(3))


def test_exponentials_are_rates() -> None:
    output = OUTPUTS.build("exp")
    rates = output(torch.tensor([[0.0], [2.0]]).log1p())
    torch.testing.assert_close(output.preds(rates), torch.tensor([1.0, 3.0]))
    assert not output.has_classes


def test_quantiles_never_cross_and_the_middle_one_is_predicted() -> None:
    output = OUTPUTS.build("quantiles")
    values = output(torch.tensor([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]]))
    assert values.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert output.preds(values).tolist() == [2, 1]
    assert output.preds(output(torch.zeros(2, 4, 3))).shape == (2, 4)
    low = OUTPUTS.build({"type": "quantiles", "quantiles": [0.05, 0.4]})
    assert low.preds(low(torch.tensor([[2.0, 1.0]]))).tolist() == [2]
    for logits in (torch.zeros(2, 2), torch.zeros(3)):
        with pytest.raises(ValueError, match="each of 3 quantiles"):
            output(logits)
