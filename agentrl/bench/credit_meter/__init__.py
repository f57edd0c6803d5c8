"""The credit meter: how near estimators of advantages come to the true advantages of single turns.

Owns the play (`samples`), the estimates on resampled groups (`points`) and their figures (`figures`). Estimators
are those of `agentrl.learning.credit`.
"""
