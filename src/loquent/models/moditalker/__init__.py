"""MoDiTalker: speech to landmarks (AToM), landmarks to video (MToV)."""

from loquent.models.moditalker.atom import AtomDenoiser
from loquent.models.moditalker.atom_sampling import AtomSampler, AtomSettings
from loquent.models.moditalker.config import AtomConfig, get_atom_preset

__all__ = ["AtomConfig", "AtomDenoiser", "AtomSampler", "AtomSettings", "get_atom_preset"]
