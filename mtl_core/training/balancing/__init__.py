"""Balancing: how much each task counts in a step of training."""

from mtl_core.training.balancing.balancer import Balancer
from mtl_core.training.balancing.catalogue import BALANCERS

__all__ = ["BALANCERS", "Balancer"]
