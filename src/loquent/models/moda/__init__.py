"""MoDA: speech to motion by a multi-modal flow-matching transformer."""

from loquent.models.moda.config import ModaConfig, get_preset
from loquent.models.moda.generate import MotionFlowGenerator
from loquent.models.moda.network import MotionTransformer

__all__ = ["ModaConfig", "MotionFlowGenerator", "MotionTransformer", "get_preset"]
