"""AgentRL: train and benchmark tool-using language-model agents from environment reward.

The public names are listed in `__init__.pyi`. Each is looked up when it is first used, so that
`import agentrl` loads neither torch nor numpy, Gymnasium or pydantic.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
