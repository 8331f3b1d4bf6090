"""MLflow's scoring server with one worker: what ``mlflow models serve`` starts, on a model that it has logged."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch
import uvicorn
from mlflow.models import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types import Schema, TensorSpec

from benchmarks.contenders.serving import network

_SIGNATURE = ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 64))]))


class Model(mlflow.pyfunc.PythonModel):
    """The model, as one writes it for MLflow."""

    def load_context(self, context: Any) -> None:
        """Load the network."""
        self.network = network.load(os.environ["BENCH_TASK"])

    # MLflow makes of an annotation what it accepts.
    def predict(self, context, model_input, params=None):
        """Predict rows."""
        with torch.inference_mode():
            probs = torch.softmax(self.network(torch.from_numpy(model_input)), dim=1)
        return {"preds": probs.argmax(dim=1).numpy(), "probs": probs.numpy()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(
            folder, python_model=Model(), signature=_SIGNATURE, pip_requirements=["mlflow"]
        )
        app = scoring_server.init(mlflow.pyfunc.load_model(folder))
        uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
