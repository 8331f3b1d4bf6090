from __future__ import annotations

from app.cards.page import page_of
from app.cards.service import card_of
from app.db.session import Database
from app.db.tables import Model, Run, Score, Version
from app.storage.artifacts import ArtifactStore
from tests.app.predictions.versions import TRUNK, spec_of


def test_a_version_that_was_not_trained_here_has_a_card_that_says_so(
    db: Database, store: ArtifactStore
) -> None:
    spec = spec_of("t", "x", TRUNK)
    spec["module_pool"]["head_t"] = {"type": "Linear", "in_features": 8, "out_features": 2}
    with db.write() as session:
        session.add(Model(name="m", tasks=[], aliases=[]))
        session.flush()
        session.add(Run(id="run_1", model="m", kind="import", status="succeeded", request={}, job={}))
        session.flush()
        made = {"parameters": 50, "sha256": "0" * 64, "bytes": 320}
        fields = {"x": {"shape": [3], "dtype": "float32"}}
        session.add(Version(model="m", number=1, run="run_1", tasks=[spec], fields=fields, **made))
        session.flush()
        told = {"task": "t", "dataset": "d", "split": "test", "metric": "accuracy", "n": 0}
        session.add(Score(model="m", version=1, run="run_1", reason="no labels", **told))
    with db.read() as session:
        card = card_of(session, store, session.get_one(Version, ("m", 1)))
    assert (card.made_by.kind, card.made_by.client, card.made_by.init_from) == ("import", None, None)
    assert (card.training, card.verdict, card.data, card.starts_from) == (None, None, [], [])
    assert [(module.name, module.parameters) for module in card.modules] == [("trunk", 32), ("head_t", 18)]
    assert [(score.value, score.reason, score.dataset_version) for score in card.scores] == [
        (None, "no labels", None)
    ]
    assert any("it was not trained here" in limit for limit in card.limits)
    assert any("the run that made it read none" in limit for limit in card.limits)
    page = page_of(card)
    assert "<td>undefined: no labels</td>" in page
    assert "None that the service knows of." in page
    assert "<h2>Training</h2>" not in page
