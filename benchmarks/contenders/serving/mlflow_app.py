"""MLflow's scoring server, as ``mlflow models serve`` runs it, with one worker."""

from __future__ import annotations

import os
import sys
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch
import uvicorn
from mlflow.pyfunc import scoring_server

from benchmarks.contenders.serving import network


class Network(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        self.network = network.load(os.environ["BENCH_TASK"])

    def predict(self, context: Any, model_input: Any, params: Any = None) -> dict[str, Any]:
        rows = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
        with torch.inference_mode():
            probs = torch.softmax(self.network(rows), dim=1)
        return {"preds": probs.argmax(dim=1).tolist(), "probs": probs.tolist()}


if __name__ == "__main__":
    folder = os.path.join(os.environ["BENCH_FOLDER"], "mlflow")
    if not os.path.exists(folder):
        mlflow.pyfunc.save_model(folder, python_model=Network())
    app = scoring_server.init(mlflow.pyfunc.load_model(folder))
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
