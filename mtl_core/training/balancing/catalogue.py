"""Balancers by the names that specs use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mtl_core.catalogue import Catalogue
from mtl_core.training.balancing.balancer import Balancer
from mtl_core.training.balancing.combiners import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradDrop,
    GradVac,
    NashMTL,
    PCGrad,
    UPGrad,
)
from mtl_core.training.balancing.famo import FAMO
from mtl_core.training.balancing.gradnorm import GradNorm
from mtl_core.training.balancing.loss_weightings import (
    DynamicWeightAverage,
    Fixed,
    Random,
    Sum,
    Uncertainty,
)

_TaskName = Annotated[str, Field(min_length=1, max_length=300)]
_Weight = Annotated[float, Field(strict=True, ge=0, le=1e9)]
_Bound = Annotated[float, Field(strict=True, ge=-1e30, le=1e30)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1)]
_Rate = Annotated[float, Field(strict=True, gt=0, le=1)]

BALANCERS: Catalogue[Balancer] = Catalogue(
    "balancing method",
    {
        "sum": Sum,
        "fixed": Fixed,
        "uncertainty": Uncertainty,
        "dwa": DynamicWeightAverage,
        "gradnorm": GradNorm,
        "random": Random,
        "famo": FAMO,
        "pcgrad": PCGrad,
        "gradvac": GradVac,
        "graddrop": GradDrop,
        "mgda": MGDA,
        "cagrad": CAGrad,
        "imtl_g": IMTLG,
        "aligned_mtl": AlignedMTL,
        "fairgrad": FairGrad,
        "upgrad": UPGrad,
        "dualproj": DualProj,
        "config": ConFIG,
        "nash_mtl": NashMTL,
    },
    annotations={
        "fixed": {"weights": Annotated[dict[_TaskName, _Weight], Field(min_length=1, max_length=10_000)]},
        "dwa": {"temperature": Annotated[float, Field(strict=True, ge=0.01, le=1000)]},
        "gradnorm": {"alpha": Annotated[float, Field(strict=True, ge=0, le=10)], "lr": _Rate},
        "famo": {
            "lr": _Rate,
            "weight_decay": _Share,
            "min_losses": Annotated[dict[_TaskName, _Bound], Field(max_length=10_000)],
        },
        "gradvac": {"beta": _Share},
        "graddrop": {"leak": _Share},
        "cagrad": {"c": Annotated[float, Field(strict=True, ge=0, le=10)]},
        "fairgrad": {"alpha": Annotated[float, Field(strict=True, ge=0.1, le=100)]},
        "nash_mtl": {"max_iterations": Annotated[int, Field(strict=True, ge=1, le=1000)]},
    },
)
