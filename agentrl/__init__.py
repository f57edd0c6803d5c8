"""AgentRL: train and benchmark tool-using language-model agents from environment reward."""

__version__ = "0.1.0"
