"""Credit: which turns and tokens deserve the reward. One file an estimator; `base` has the contract."""
