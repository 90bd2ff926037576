"""Problems: f(x) = (1/n) Σ f_i(x). One file each; `problems` is the registry."""

from .base import Block, BlockProblem, FeatureCounts, FunctionProblem, Problem, Smoothness, problems

__all__ = ["Block", "BlockProblem", "FeatureCounts", "FunctionProblem", "Problem", "Smoothness", "problems"]
