"""The base class of environments with a sandbox, and grading in it. Owns no sandbox: that is `agentrl.sandbox`."""
